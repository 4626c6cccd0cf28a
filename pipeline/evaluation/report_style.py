"""The report's style sheet: system fonts, light and dark, one column on a phone, fit to print."""

CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6878;
--line:#e0e4ea;--a:#2f6fde;--b:#d9632b;--good:#1f8a55;--bad:#c23b3b;--track:#eceff3}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1b2029;--ink:#e8ebf0;--soft:#9aa5b5;
--line:#2d3541;--a:#74a5ff;--b:#f3935f;--good:#56c48e;--bad:#f08080;--track:#272e39}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 4px;letter-spacing:-.005em}
h3{font-size:.95rem;margin:22px 0 6px}
p{margin:0 0 12px}
.soft,.note{color:var(--soft)}
.note{font-size:.86rem;max-width:76ch}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:16px 0 20px;font-size:.88rem}
a{color:var(--a);text-decoration:none}
a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:22px 24px;margin:0 0 20px;overflow:hidden}
.headlines{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;
margin:0 0 20px}
.headline{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.headline b{display:block;font-size:1.6rem;line-height:1.25;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.headline span{display:block;font-size:.82rem;color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:4px 24px;
margin:0;font-size:.86rem}
.facts div{display:flex;gap:8px;min-width:0}
.facts dt{color:var(--soft);flex:none}
.facts dd{margin:0;overflow-wrap:anywhere;min-width:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.8rem}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:middle}
tr:last-child td{border-bottom:0}
td.num,th.num{text-align:right;white-space:nowrap}
.scores td.plot{width:210px}
.scores .num:nth-child(2){width:90px}.scores .num:nth-child(3){width:160px}
.scores .num:nth-child(5){width:64px}
td small{display:block;color:var(--soft);font-size:.8rem;line-height:1.35}
svg{display:block;width:100%;height:auto}
.axis{stroke:var(--line);stroke-width:1}
.tick,.label{fill:var(--soft);font-size:11px;font-family:inherit}
.series-1,.series-2,.faint{fill:none;stroke-width:2;stroke-linejoin:round}
.series-1{stroke:var(--a)}.series-2{stroke:var(--b)}
.faint{stroke:var(--a);stroke-width:1;opacity:.28}
.dot-1{fill:var(--a)}.dot-2{fill:var(--b)}.span{stroke-width:1.5;opacity:.5}
i.dot-1{background:var(--a)}i.dot-2{background:var(--b)}
.interval{stroke:var(--a);stroke-width:4;stroke-linecap:round;opacity:.4}
.point{fill:var(--a)}.chance{stroke:var(--b);stroke-width:1.5;stroke-dasharray:2 2}
.bar{position:relative;background:var(--track);border-radius:4px;height:14px;min-width:90px}
.bar i{position:absolute;inset:0 auto 0 0;border-radius:4px;background:var(--a);min-width:2px}
.bar.kept i{background:var(--good)}.bar.dropped i{background:var(--b)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:14px 24px}
.charts h3{margin:8px 0 2px}
.legend{display:flex;gap:18px;font-size:.84rem;color:var(--soft);margin:0 0 4px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(310px,1fr));gap:14px}
.made{display:grid;grid-template-columns:128px 1fr;gap:4px 12px;border:1px solid var(--line);
border-radius:10px;padding:10px;break-inside:avoid}
.made>img{width:128px;height:128px;object-fit:cover;border-radius:6px;background:var(--track)}
.made p{margin:0;font-size:.86rem;line-height:1.35;overflow-wrap:anywhere}
.near{display:flex;gap:6px;margin-top:6px}
.near figure{margin:0;width:52px}
.near img{width:52px;height:52px;object-fit:cover;border-radius:4px;display:block;
background:var(--track)}
.near figcaption{font-size:.72rem;color:var(--soft);text-align:center;
font-variant-numeric:tabular-nums}
.right,.wrong{font-size:.8rem}
.right{color:var(--good)}.wrong{color:var(--bad)}
.thumbs{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:10px}
.thumbs figure{margin:0;min-width:0}
.thumbs img{width:100%;aspect-ratio:1;object-fit:contain;border-radius:6px;background:var(--track);
display:block}
.thumbs figcaption{font-size:.74rem;line-height:1.3;color:var(--soft);margin-top:3px;
display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;overflow:hidden;
overflow-wrap:anywhere}
.confusions{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:10px 32px}
.confusion{width:auto}
.confusion td,.confusion th{padding:4px 3px;border:0;text-align:center;min-width:30px}
.confusion th{font-size:.74rem}
.confusion th.row{text-align:right}
.confusion td{background:color-mix(in srgb,var(--a) calc(var(--s)*70%),var(--track));
border:2px solid var(--card)}
.confusion td.zero{color:var(--soft);background:var(--track)}
.confusion td.own{box-shadow:inset 0 0 0 1.5px var(--good)}
.absent{color:var(--soft);font-style:italic;margin:0}
footer{color:var(--soft);font-size:.82rem;padding-bottom:40px}
@media (max-width:600px){main,header,footer{padding-left:12px;padding-right:12px}
section{padding:16px 14px;border-radius:10px}h1{font-size:1.4rem}
.made{grid-template-columns:96px 1fr}.made>img{width:96px;height:96px}
.gallery{grid-template-columns:1fr}.headline b{font-size:1.3rem}
.headlines{grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}
.scores .plot,.scores th:nth-child(4){display:none}.scores td,.scores th{padding-right:8px}
.scores .num:nth-child(n){width:auto}.scores{font-size:.82rem}
.scores td.num:last-child,.scores th.num:last-child{padding-right:0}
.confusion thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;
padding:3px 0}
.confusion td,.confusion th{min-width:0;font-size:.74rem}}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#ccc;--a:#2f6fde;
--b:#d9632b;--good:#1f8a55;--bad:#c23b3b;--track:#eee;color-scheme:light}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
nav{display:none}section{border:0;padding:8px 0;overflow:visible}
tr,figure,.headline{break-inside:avoid}h2,h3{break-after:avoid}}
"""
