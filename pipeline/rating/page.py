"""The raters' pages: plain forms that work with keys, with a finger and without JavaScript.

Pictures stand inside the page, so that no address can tell whose they are.
"""

import base64
import hashlib
import html

from pipeline.rating.config import Question
from pipeline.rating.study import Item, Which

ASKED: dict[Question, str] = {
    "photorealism": "Which picture looks more like a real photograph?",
    "caption": "Which picture matches the caption better?",
    "diversity": "Which set of pictures is more varied?",
}
STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6878;--line:#d5dae2;
--a:#2f6fde;--bad:#b42f2f}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e8ebf0;--soft:#9aa5b5;
--line:#2d3541;--a:#74a5ff;--bad:#f08080}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:14px 16px;text-align:center}
main.narrow{max-width:460px;padding-top:48px;text-align:left}
h1{font-size:1.2rem;line-height:1.3;margin:12px 0 4px}
p{margin:0 0 10px;color:var(--soft)}
blockquote{margin:0 auto 10px;font-size:1.1rem;max-width:60ch;overflow-wrap:anywhere}
progress{display:block;width:100%;height:8px;accent-color:var(--a)}
.facts{display:flex;justify-content:space-between;gap:12px;font-size:.84rem;color:var(--soft);
margin:4px 0 0;flex-wrap:wrap}
a,.link{color:var(--a)}
.pair{--side:min(500px,50vw - 46px,62svh);display:grid;grid-template-columns:auto auto;gap:14px;
justify-content:center;margin:10px 0 12px}
button{font:inherit;color:inherit;background:var(--card);border:2px solid var(--line);
border-radius:12px;padding:9px 18px;cursor:pointer}
.pair button{padding:8px}
.pair img{display:block;border-radius:6px;width:var(--side);height:var(--side)}
.pair span{display:block;margin-top:6px;font-size:.9rem}
button.chosen{border-color:var(--a)}
@media (hover:hover){button:hover{border-color:var(--a)}}
.go{background:#2f6fde;border-color:#2f6fde;color:#fff;font-weight:600;width:100%}
button.link{background:none;border:0;padding:0;text-decoration:underline;font-size:inherit}
kbd{font:inherit;font-size:.8rem;color:var(--soft);border:1px solid var(--line);border-radius:5px;
padding:0 6px}
label{display:block;margin:14px 0 12px}
input{width:100%;font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);
border-radius:8px;padding:10px 12px;margin-top:4px}
:focus-visible{outline:2px solid var(--a);outline-offset:2px}
.error{color:var(--bad)}
@media (max-width:640px){main{padding:8px 12px}
.pair{--side:min(100vw - 40px,35svh);grid-template-columns:auto;gap:8px;margin:6px 0}
.pair button{padding:5px}.pair span{display:none}
h1{font-size:1.05rem;margin:8px 0 2px}blockquote{font-size:1rem;margin-bottom:4px}kbd{display:none}}
"""
SCRIPT = """
const keys={ArrowLeft:"left",1:"left",ArrowRight:"right",2:"right",ArrowDown:"tie",0:"tie"};
addEventListener("keydown",event=>{
if(event.ctrlKey||event.metaKey||event.altKey||event.repeat)return;
const target=event.key==="Backspace"?document.querySelector("a.back")
:document.querySelector(`button[value="${keys[event.key]}"]`);
if(target){event.preventDefault();target.click()}});
"""
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every page: nothing is loaded from anywhere, nothing is kept by caches."""
_BEGIN = '<button class="go">Begin</button>'


def comparison(
    rater: str, item: Item, left: Which, place: int, total: int, done: int, chosen: str | None
) -> str:
    """One comparison.

    Args:
        rater: Name of the rater.
        item: What is shown.
        left: The system on the left side, which the page does not say.
        place: Of the comparison in the rater's order, from 0.
        total: Comparisons of the study.
        done: Comparisons that the rater has answered.
        chosen: ``left``, ``right`` or ``tie`` where this one is answered already.
    """
    right = item.second if left == "first" else item.first
    sides = {"left": getattr(item, left), "right": right}
    hint = {"left": "← or 1", "right": "→ or 2"}
    pictures = "".join(
        f'<button name="choice" value="{side}"{_mark(side, chosen)}>'
        f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{side} picture">'
        f"<span>{side.capitalize()} <kbd>{hint[side]}</kbd></span></button>"
        for side, png in sides.items()
    )
    caption = f"<blockquote>“{html.escape(item.caption)}”</blockquote>"
    back = f'<a class="back" href="/?place={place - 1}">Back</a>' if place else "<span></span>"
    return _document(
        f'<main><progress value="{done}" max="{total}" aria-label="rated"></progress>'
        f'<div class="facts">{back}<span>{place + 1} of {total}</span>{_leave(rater)}</div>'
        f"<h1>{ASKED[item.question]}</h1>{caption if item.question == 'caption' else ''}"
        f'<form method="post" action="/answer"><input type="hidden" name="place" value="{place}">'
        f'<div class="pair">{pictures}</div>'
        f'<button name="choice" value="tie"{_mark("tie", chosen)}>Not sure <kbd>↓ or 0</kbd>'
        f"</button></form></main><script>{SCRIPT}</script>"
    )


def begin(name: str = "", error: str = "", *, taken: bool = False) -> str:
    """Who rates; ``taken`` asks whether the one of this name is the same person."""
    told = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    go_on = '<button class="go" name="again" value="1">That is me: go on</button><br><br>'
    buttons = f"{go_on}<button>Try another name</button>" if taken else _BEGIN
    return _document(
        '<main class="narrow"><h1>Compare pictures</h1><p>You will see two pictures at a time and '
        "say which is better. There is no right answer; if you cannot decide, say so. You may stop "
        "at any time and go on later under the same name.</p>"
        f'{told}<form method="post" action="/begin"><label>Your name'
        f'<input name="name" value="{html.escape(name, quote=True)}" maxlength="40" required '
        f'autocomplete="nickname" autofocus></label>{buttons}</form></main>'
    )


def finished(rater: str, total: int) -> str:
    """Everything is rated."""
    return _document(
        '<main class="narrow"><progress value="1" max="1"></progress><h1>Done. Thank you!</h1>'
        f"<p>All {total} comparisons are rated and kept.</p>"
        f'<p><a class="back" href="/?place={total - 1}">Back to the last one</a></p>'
        f"<p>{_leave(rater)}</p></main><script>{SCRIPT}</script>"
    )


def refused(reason: str) -> str:
    """Why there is nothing to see."""
    return _document(
        f'<main class="narrow"><h1>Compare pictures</h1><p class="error">{html.escape(reason)}</p>'
        "</main>"
    )


def _mark(value: str, chosen: str | None) -> str:
    return ' class="chosen" aria-pressed="true"' if value == chosen else ""


def _leave(rater: str) -> str:
    return (
        '<form method="post" action="/leave"><button class="link">'
        f"Not {html.escape(rater)}?</button></form>"
    )


def _document(body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<title>Compare pictures</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    )
