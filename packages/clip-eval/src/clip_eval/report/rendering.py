"""Pages and charts from the templates of this package; every value is escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clip_eval.plurals import count_noun
from clip_eval.report.table import format_count, metric_name, percent


def render_page(template: str, **values: object) -> str:
    """Fill in the template of a page."""
    return _environment().get_template(template).render(values)


def render_fragment(template: str, **values: object) -> Markup:
    """Fill in the template of a part of a page, which is not escaped again."""
    return Markup(render_page(template, **values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("clip_eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "metric_name": metric_name,
        "count": format_count,
        "count_noun": count_noun,
    }
    return environment
