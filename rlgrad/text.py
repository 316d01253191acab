"""Tables as text, for the terminal and for Markdown: the first column is a name, the others are aligned right."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows of cells in columns two spaces apart, with a rule under the first, which is the header.

    Args:
        rows: the header and the rows, all of one length.
        left: how many columns, from the first, are aligned left.

    Example:
        >>> print(aligned([["name", "score"], ["a", "0.5"], ["longer", "10.0"]]))
        name    score
        ------  -----
        a         0.5
        longer   10.0
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [
        [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in [rows[0], rule, *rows[1:]]
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """The same rows as a Markdown table; cells are taken as they are.

    Example:
        >>> print(markdown([["name", "score"], ["`a`", "0.5"]]))
        | name | score |
        | :-- | --: |
        | `a` | 0.5 |
    """
    rule = [":--" if at < left else "--:" for at in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def code(name: str) -> str:
    r"""A name as Markdown code inside a table, where a bar would end the cell and a backtick the code.

    Example:
        >>> code("a|b")
        '`a\\|b`'
    """
    return "`" + " ".join(name.split()).replace("`", "'").replace("|", "\\|") + "`"
