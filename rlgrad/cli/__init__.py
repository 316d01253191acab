"""The command line: parse, call, print.

Only tyro is imported before the arguments are parsed, so that ``--help`` answers at once; torch takes seconds.
"""

import io
import sys
from typing import Annotated

import tyro

from rlgrad.cli.arguments import RunFailed
from rlgrad.cli.comparing import Compare as Compare
from rlgrad.cli.gradients import Audit as Audit
from rlgrad.cli.gradients import Probe as Probe
from rlgrad.cli.playing import Agent as Agent
from rlgrad.cli.training import Predict as Predict
from rlgrad.cli.training import Train as Train

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Agent, tyro.conf.subcommand("agent")]
)


def main(args: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 when it did what was asked, 1 when training or an environment failed, 2 when the input is at fault, 130 when
    interrupted.
    """
    command = tyro.cli(
        Command,
        prog="rlgrad",
        description="Train on the metric that you are judged by, and find out whether that beats what you do now.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label that the terminal cannot show is no error
    try:
        return command.run()
    except (ValueError, OSError) as error:
        return _fail(error, 2)
    except (FloatingPointError, RunFailed) as error:
        return _fail(error, 1)
    except KeyboardInterrupt as interrupt:
        print("; ".join(("rlgrad: interrupted", *map(str, interrupt.args))), file=sys.stderr)
        return 130


def _fail(error: Exception, status: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"rlgrad: error: {text}", file=sys.stderr)
    return status
