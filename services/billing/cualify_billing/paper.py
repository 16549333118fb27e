"""A tax document as PDF, drawn from its JSON and nothing else: the same document is the same file."""

from datetime import UTC, datetime
from typing import Any

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from cualify_billing.figures import rupees
from cualify_billing.india import IST

Json = dict[str, Any]
_WIDTHS = (66, 16, 24, 24, 20, 20, 20)
_HEADS = ("Description", "SAC", "Amount", "Taxable", "CGST", "SGST", "IGST")


def pdf(body: Json) -> bytes:
    """An A4 page or more. Amounts are in rupees."""
    paper = FPDF(format="A4")
    paper.set_creation_date(datetime.fromisoformat(body["issued_on"]).replace(tzinfo=UTC))
    paper.set_title(f"{body['title']} {body['number']}")
    paper.set_margin(10)
    paper.set_auto_page_break(True, margin=15)
    paper.add_page()
    _head(paper, body)
    _table(paper, body)
    _foot(paper, body)
    return bytes(paper.output())


def _head(paper: FPDF, body: Json) -> None:
    seller, buyer, place = body["seller"], body["buyer"], body["place_of_supply"]
    _text(paper, body["title"], size=16, bold=True)
    _text(paper, f"No. {body['number']}        Date {_day(body['issued_on'])}", size=10)
    if body["period"]:
        _text(paper, f"For calls settled {_period(body['period'])}", size=9)
    paper.ln(3)
    _text(paper, seller["name"], size=11, bold=True)
    _text(paper, f"{seller['address']}\nGSTIN {seller['gstin']}")
    paper.ln(2)
    _text(paper, f"To: {buyer['name']}", size=11, bold=True)
    _text(paper, "\n".join(filter(None, (buyer["address"], f"GSTIN {buyer['gstin'] or 'not registered'}"))))
    _text(paper, f"Place of supply: {place['state']} ({place['state_code']})        Reverse charge: no")
    if body["refers_to"]:
        _text(paper, f"Reference: {', '.join(body['refers_to'])}")
    paper.ln(3)


def _table(paper: FPDF, body: Json) -> None:
    paper.set_font("Helvetica", size=8)
    with paper.table(col_widths=_WIDTHS, text_align=("LEFT", "LEFT", *["RIGHT"] * 5), line_height=5) as table:
        table.row(_HEADS)
        for line in body["lines"]:
            table.row([_printable(cell) for cell in _cells(line)])
        totals = body["totals"]
        named = (totals["taxable_paise"], totals["cgst_paise"], totals["sgst_paise"], totals["igst_paise"])
        table.row(("Total", "", rupees(totals["total_paise"]), *map(rupees, named)))


def _cells(line: Json) -> tuple[str, ...]:
    rate = line["rate_percent"]
    described = f"{line['description']} ({rate} % GST included)"
    if line["discount_paise"]:
        described += f"; list price {rupees(line['amount_paise'])}, promotional credit {rupees(line['discount_paise'])}"
    taxes = (line["taxable_paise"], line["cgst_paise"], line["sgst_paise"], line["igst_paise"])
    return (described, line["sac"], rupees(line["total_paise"]), *map(rupees, taxes))


def _foot(paper: FPDF, body: Json) -> None:
    paper.ln(3)
    _text(paper, f"Total INR {body['total_rupees']}", size=11, bold=True)
    _text(paper, body["amount_in_words"])
    for use in body["uses"]:
        already = rupees(use["tax_already_paid_paise"])
        against = f"Against {use['number']} of {_day(use['issued_on'])}: INR {rupees(use['amount_paise'])}"
        _text(paper, f"{against} (tax paid with it: INR {already})")
    if body["kind"] == "tax_invoice":
        used_paise = sum(use["amount_paise"] for use in body["uses"])
        _text(paper, f"Balance due INR {rupees(body['totals']['total_paise'] - used_paise)}", bold=True)
    if body["reason"]:
        _text(paper, f"Reason: {body['reason']}")
    paper.ln(4)
    _text(paper, "Computer-generated document. Amounts in rupees; each line is rounded to the paisa by itself.", size=7)


def _text(paper: FPDF, text: str, *, size: int = 9, bold: bool = False) -> None:
    paper.set_font("Helvetica", "B" if bold else "", size)
    paper.multi_cell(0, size * 0.5, _printable(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT, align="L")


def _printable(text: str) -> str:
    """The paper's font has Latin letters. A payment's id may have others, and then stands whole in the JSON only."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _day(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%d %b %Y")


def _period(period: Json) -> str:
    until = _day_in_india(period["until"])
    return f"before {until}" if period["from"] is None else f"from {_day_in_india(period['from'])}, before {until}"


def _day_in_india(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(IST).strftime("%d %b %Y")
