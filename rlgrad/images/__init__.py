"""Images with masks: read a folder, bring all to one size, cut it in three, turn it into arrays.

    problem = load_images("cells/")              # images/ and masks/, PNG files of equal names
    parts = problem.split(seed=0)                # train, validation, test; normalised by the train part alone
    parts.train.x, parts.train.y                 # float32 images x channels x height x width; classes, -1 in padding

``generated`` makes images that need no file; ``write_folder`` writes images and masks as ``load_images`` reads them.
"""

from rlgrad.images.fitting import STRIDE as STRIDE
from rlgrad.images.fitting import common_size as common_size
from rlgrad.images.fitting import fit_to as fit_to
from rlgrad.images.made import Generated as Generated
from rlgrad.images.made import generated as generated
from rlgrad.images.mistakes import COLOURS as COLOURS
from rlgrad.images.mistakes import DIMMED as DIMMED
from rlgrad.images.mistakes import mistakes as mistakes
from rlgrad.images.problem import PADDED as PADDED
from rlgrad.images.problem import ImagePart as ImagePart
from rlgrad.images.problem import ImageParts as ImageParts
from rlgrad.images.problem import ImageProblem as ImageProblem
from rlgrad.images.problem import generated_problem as generated_problem
from rlgrad.images.problem import load_images as load_images
from rlgrad.images.problem import problem_of as problem_of
from rlgrad.images.reading import image_files as image_files
from rlgrad.images.reading import read_image as read_image
from rlgrad.images.reading import read_mask as read_mask
from rlgrad.images.reading import read_pairs as read_pairs
from rlgrad.images.writing import write_folder as write_folder
from rlgrad.images.writing import write_mask as write_mask
