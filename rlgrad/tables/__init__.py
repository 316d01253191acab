"""Tables of data: read one, name its target, cut it in three, turn it into arrays.

    problem = load_problem("data.csv", "class")  # read and checked
    parts = problem.split(seed=0)                # train, validation, test; the encoding fitted on train alone
    parts.train.x, parts.train.y                 # float32 rows x columns, bool rows

Several labels of a row are several columns, ``load_problem("songs.arff", "sad,calm,loud")``; y is then rows x labels.

The steps are functions of their own: ``read_table``, ``binary_target`` or ``targets``, ``check_finite``,
``duplicate_groups``, ``split``, ``fit_preprocessor``, ``encode``, in this order. In messages, rows of data
are counted from 1.
"""

from rlgrad.tables.columns import check_finite as check_finite
from rlgrad.tables.encoding import encode as encode
from rlgrad.tables.encoding import fit_preprocessor as fit_preprocessor
from rlgrad.tables.encoding import load_preprocessor as load_preprocessor
from rlgrad.tables.encoding import save_preprocessor as save_preprocessor
from rlgrad.tables.parts import Split as Split
from rlgrad.tables.parts import duplicate_groups as duplicate_groups
from rlgrad.tables.parts import split as split
from rlgrad.tables.problem import Part as Part
from rlgrad.tables.problem import Parts as Parts
from rlgrad.tables.problem import Problem as Problem
from rlgrad.tables.problem import digits_table as digits_table
from rlgrad.tables.problem import load_problem as load_problem
from rlgrad.tables.reading import read_table as read_table
from rlgrad.tables.target import Target as Target
from rlgrad.tables.target import Targets as Targets
from rlgrad.tables.target import binary_target as binary_target
from rlgrad.tables.target import columns_of as columns_of
from rlgrad.tables.target import targets as targets
