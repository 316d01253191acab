"""Trained models as folders of data: none of it is code, and loading runs none."""

from rlgrad.model.folder import check_destination as check_destination
from rlgrad.model.folder import check_is_model as check_is_model
from rlgrad.model.folder import replacing_folder as replacing_folder
from rlgrad.model.folder import task_of as task_of
from rlgrad.model.segmentation import MaskDescription as MaskDescription
from rlgrad.model.segmentation import SegmentationModel as SegmentationModel
from rlgrad.model.segmentation import load_segmentation as load_segmentation
from rlgrad.model.segmentation import save_segmentation as save_segmentation
from rlgrad.model.table import NETWORKS as NETWORKS
from rlgrad.model.table import Description as Description
from rlgrad.model.table import Label as Label
from rlgrad.model.table import TableModel as TableModel
from rlgrad.model.table import build as build
from rlgrad.model.table import load_model as load_model
from rlgrad.model.table import save_model as save_model
from rlgrad.model.unet import UNet as UNet
from rlgrad.model.unet import build_unet as build_unet
