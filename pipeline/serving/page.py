"""The one-page UI: a plain form that works without JavaScript, on a phone and in the dark."""

import base64
import html

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6878;--line:#d5dae2;
--a:#2f6fde;--bad:#b42f2f}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e8ebf0;--soft:#9aa5b5;
--line:#2d3541;--a:#74a5ff;--bad:#f08080}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:640px;margin:0 auto;padding:32px 16px}
h1{font-size:1.4rem;margin:0 0 4px}p{margin:0 0 16px;color:var(--soft)}
form{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px;
display:grid;gap:12px;grid-template-columns:1fr 1fr}
label{display:block;font-size:.86rem;color:var(--soft)}
.wide{grid-column:1/-1}
input{width:100%;font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);
border-radius:8px;padding:9px 11px;margin-top:3px}
button{grid-column:1/-1;font:inherit;font-weight:600;color:#fff;background:#2f6fde;border:0;
border-radius:8px;padding:11px;cursor:pointer}
:focus-visible{outline:2px solid var(--a);outline-offset:2px}
figure{margin:20px 0 0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:14px;text-align:center}
img{width:100%;max-width:512px;border-radius:8px;image-rendering:auto}
figcaption{margin-top:8px;font-size:.9rem;color:var(--soft);overflow-wrap:anywhere}
.error{color:var(--bad);margin:16px 0 0}
"""


def page(
    prompt: str = "", seed: str = "0", guidance: str = "", png: bytes | None = None, error: str = ""
) -> str:
    """The form with what was asked, and the picture or what went wrong.

    Args:
        prompt: Text in the form.
        seed: Seed in the form.
        guidance: Guidance scale in the form; empty keeps the run's own.
        png: The picture that was made.
        error: What to tell instead.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Text to picture</title><style>{STYLE}</style></head><body><main>"
        "<h1>Text to picture</h1><p>Describe a picture. The same seed gives the same picture.</p>"
        '<form method="get" action="/">'
        + _field("prompt", "Prompt", prompt, 'class="wide" ', "required autofocus")
        + _field("seed", "Seed", seed, "", 'type="number" min="0" step="1"')
        + _field("guidance", "Guidance", guidance, "", 'type="number" min="0" max="50" step="any"')
        + f"<button>Draw</button></form>{_result(prompt, seed, png, error)}</main></body></html>"
    )


def _field(name: str, label: str, value: str, wrapper: str, attributes: str) -> str:
    return (
        f"<label {wrapper}>{label}"
        f'<input name="{name}" value="{html.escape(value, quote=True)}" {attributes}></label>'
    )


def _result(prompt: str, seed: str, png: bytes | None, error: str) -> str:
    if error:
        return f'<p class="error" role="alert">{html.escape(error)}</p>'
    if png is None:
        return ""
    text = html.escape(prompt, quote=True)
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{text}">'
        f"<figcaption>{text}, seed {html.escape(seed)}</figcaption></figure>"
    )
