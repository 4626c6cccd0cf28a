"""The one-page UI: plain forms that work without JavaScript, on a phone and in the dark."""

import base64
import html
from collections.abc import Mapping, Sequence

from pipeline.serving.drawing import Drawn

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6878;--line:#d5dae2;
--a:#2f6fde;--bad:#b42f2f}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e8ebf0;--soft:#9aa5b5;
--line:#2d3541;--a:#74a5ff;--bad:#f08080}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:900px;margin:0 auto;padding:32px 16px}
h1{font-size:1.4rem;margin:0 0 4px}p{margin:0 0 16px;color:var(--soft)}
form.ask{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px;
display:grid;gap:12px;grid-template-columns:repeat(3,1fr)}
label{display:block;font-size:.86rem;color:var(--soft)}
.wide{grid-column:1/-1}
input{width:100%;font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);
border-radius:8px;padding:9px 11px;margin-top:3px}
button{font:inherit;font-weight:600;color:#fff;background:#2f6fde;border:0;
border-radius:8px;padding:11px;cursor:pointer;grid-column:1/-1}
:focus-visible{outline:2px solid var(--a);outline-offset:2px}
h2{font-size:1rem;margin:24px 0 10px;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:12px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:8px}
img{display:block;width:100%;border-radius:8px}
figure button{width:100%;margin-top:8px;padding:7px;font-weight:500;font-size:.9rem;
background:none;color:var(--a);border:1px solid var(--line)}
figcaption{margin-top:15px;font-size:.9rem;text-align:center;color:var(--soft)}
.error{color:var(--bad);margin:16px 0 0}
@media (max-width:520px){main{padding:20px 12px}.grid{grid-template-columns:1fr 1fr;gap:8px}
form.ask{padding:12px}.one{grid-template-columns:1fr}}
"""
FIELDS = (
    ("seed", "Seed", "0", 'type="number" min="0" step="1"'),
    ("number", "Pictures", "4", 'type="number" min="1" step="1"'),
    ("guidance", "Guidance", "", 'type="number" min="0" max="50" step="any" placeholder="default"'),
)


def page(
    asked: Mapping[str, str] | None = None, made: Sequence[Drawn] = (), error: str = ""
) -> str:
    """The form with what was asked, and the pictures or what went wrong.

    Args:
        asked: The form's fields ``prompt, seed, number, guidance``; ``picture`` where it is a
            picture that was varied.
        made: The pictures that were made.
        error: What to tell instead.
    """
    asked = asked or {}
    fields = "".join(
        _field(name, label, asked.get(name, default), "", attributes)
        for name, label, default, attributes in FIELDS
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<title>Text to picture</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><main>"
        "<h1>Text to picture</h1><p>Describe a picture. The same seed gives the same pictures.</p>"
        '<form class="ask" method="get" action="/">'
        + _field("prompt", "Prompt", asked.get("prompt", ""), ' class="wide"', "required autofocus")
        + f"{fields}<button>Draw</button></form>{_result(asked, made, error)}</main></body></html>"
    )


def _field(name: str, label: str, value: str, wrapper: str, attributes: str) -> str:
    return (
        f"<label{wrapper}>{label}"
        f'<input name="{name}" value="{html.escape(value, quote=True)}" {attributes}></label>'
    )


def _result(asked: Mapping[str, str], made: Sequence[Drawn], error: str) -> str:
    if error:
        return f'<p class="error" role="alert">{html.escape(error)}</p>'
    if not made:
        return ""
    source = asked.get("picture")
    of = f"Variations of this picture, seed {asked.get('seed') or 0}"
    title = html.escape(of if source else f"{asked['prompt']}, seed {asked.get('seed') or 0}")
    original = ""
    if source:
        picture = _image(source, "the picture that is varied")
        original = f"<figure>{picture}<figcaption>Original</figcaption></figure>"
    figures = "".join(_figure(asked, each, place) for place, each in enumerate(made))
    shape = "grid one" if len(made) == 1 and not source else "grid"
    return f'<h2>{title}</h2><div class="{shape}">{original}{figures}</div>'


def _figure(asked: Mapping[str, str], drawn: Drawn, place: int) -> str:
    """A picture, and the button that asks for its variations: z_img is what they share."""
    if drawn.withheld:
        return f"<figure><p>Withheld: {html.escape(', '.join(drawn.withheld))}</p></figure>"
    source = base64.b64encode(drawn.png).decode()
    seed = asked.get("seed") or "0"
    # With the seed it was made with, a variation would begin with the same noise.
    fresh = {"seed": str(int(seed) + 1) if seed.isdigit() else "1", "picture": source}
    kept = {name: asked.get(name, "") for name in ("prompt", "number", "guidance")}
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{html.escape(value, quote=True)}">'
        for name, value in {**kept, **fresh}.items()
    )
    label = f"{asked.get('prompt', '')}, picture {place + 1}"
    return (
        f"<figure>{_image(source, label)}"
        f'<form method="post" action="/">{hidden}<button>Variations</button></form>'
        "</figure>"
    )


def _image(source: str, label: str) -> str:
    """A PNG in base64; what a client sent in is escaped."""
    alt = html.escape(label, quote=True)
    return f'<img src="data:image/png;base64,{html.escape(source, quote=True)}" alt="{alt}">'
