"""Which functions can back-propagation train through, and which not?"""

from rlgrad.probing.builtins import BUILTINS as BUILTINS
from rlgrad.probing.builtins import Builtin as Builtin
from rlgrad.probing.builtins import builtins_table as builtins_table
from rlgrad.probing.builtins import builtins_text as builtins_text
from rlgrad.probing.builtins import probe_builtins as probe_builtins
from rlgrad.probing.judging import probe as probe
from rlgrad.probing.loading import example as example
from rlgrad.probing.loading import load as load
from rlgrad.probing.reports import Finding as Finding
from rlgrad.probing.reports import Report as Report
