"""Figures as a person reads them."""


def number(value, digits=3):
    """Rounded to so many significant digits, with separators."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        whole = len(str(int(abs(value))))
        return f"{round(value, min(0, digits + 1 - whole)):,.0f}"
    decimals = digits - 1
    while decimals > 0 and abs(value) >= 10 ** (digits - decimals):
        decimals -= 1
    return f"{value:.{decimals}f}"


def ranged(spread, digits=3):
    """A median with its range."""
    if not spread:
        return "–"
    if spread["rounds"] == 1:
        return number(spread["median"], digits)
    return f"{number(spread['median'], digits)} ({number(spread['min'], digits)} – {number(spread['max'], digits)})"


def middle(spread, digits=3):
    return number(spread["median"], digits) if spread else "–"


def percent(share):
    if share == 0:
        return "0 %"
    return f"{share * 100:.2f} %" if share < 0.01 else f"{share * 100:.1f} %"


def mib(count):
    return number(count / 1024 / 1024)


def table(head, rows):
    """A markdown table."""
    def line(cells):
        return "| " + " | ".join(str(cell) for cell in cells) + " |"
    return "\n".join([line(head), line(["---"] + ["---:"] * (len(head) - 1)), *map(line, rows)])
