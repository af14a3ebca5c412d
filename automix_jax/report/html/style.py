"""How a page looks: dark where the reader's system is, light on paper, narrow on a phone."""

_LIGHT = """
  --ground: #ffffff; --card: #f6f8fa; --ink: #1f2328; --gray: #59636e; --line: #d1d9e0;
  --link: #0969da; --warm: #fff8e5; --warm-line: #d4a72c;
  --c0: #1f6feb; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df;
  --c4: #cf222e; --c5: #0e7c86; --c6: #9a6700; --c7: #bf3989;
"""
_DARK = """
  --ground: #0d1117; --card: #161b22; --ink: #e6edf3; --gray: #9198a1; --line: #30363d;
  --link: #58a6ff; --warm: #2b2410; --warm-line: #9e6a03;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff;
  --c4: #ff7b72; --c5: #39c5cf; --c6: #d29922; --c7: #f778ba;
"""
_COLORS = "\n".join(f".s{i} {{ color: var(--c{i}); }}" for i in range(8))

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
{_COLORS}
* {{ box-sizing: border-box; }}
html {{ scroll-padding-top: 3.2rem; -webkit-text-size-adjust: 100%; }}
body {{
  margin: 0 auto; max-width: 1240px; padding: 0 20px 40px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 1.6rem 0 .3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; margin: 2.4rem 0 .8rem; }}
h3 {{ font-size: 1.02rem; margin: 1.4rem 0 .5rem; }}
h4 {{ font-size: 1rem; margin: 0 0 .5rem; }}
a {{ color: var(--link); text-decoration: none; }}
a:hover {{ text-decoration: underline; }}
code, pre {{ font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }}
pre {{
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0;
  padding: .6rem .8rem; overflow-x: auto;
}}
[hidden] {{ display: none !important; }}
.under {{ color: var(--gray); margin: 0 0 1rem; overflow-wrap: anywhere; }}
.note {{ color: var(--gray); font-size: .87rem; margin: .4rem 0 .6rem; max-width: 75ch; }}
.badge {{
  border: 1px solid currentColor; border-radius: 99px; font-size: .8rem; font-weight: 600;
  padding: .1rem .7rem; margin-right: .4rem; white-space: nowrap; color: var(--c6);
}}
.badge.finished {{ color: var(--c2); }}
.badge.in-progress {{ color: var(--c0); }}
.badge.given-up {{ color: var(--c4); }}
.tiles {{ display: grid; gap: 10px; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); }}
.tile {{
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  display: flex; flex-direction: column; padding: .6rem .9rem; min-width: 0;
}}
.tile small, .tile span {{ color: var(--gray); font-size: .8rem; overflow-wrap: anywhere; }}
.tile strong {{ font-size: 1.2rem; line-height: 1.5; overflow-wrap: anywhere; }}
.tile.big strong {{ font-size: 1.75rem; line-height: 1.25; color: var(--c0); }}
.notes {{
  background: var(--warm); border: 1px solid var(--warm-line); border-radius: 10px;
  margin-top: 1rem; padding: .7rem 1rem; overflow-wrap: anywhere;
}}
.notes ul {{ margin: .3rem 0 0; padding-left: 1.2rem; }}
nav {{
  background: var(--ground); border-bottom: 1px solid var(--line); display: flex; gap: 1.1rem;
  margin-top: 1rem; overflow-x: auto; padding: .65rem 0; position: sticky; top: 0;
  white-space: nowrap; z-index: 3; scrollbar-width: none;
}}
.charts {{
  display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(350px, 100%), 1fr));
}}
.cards {{ columns: 2 420px; column-gap: 14px; }}
.beside {{ display: flex; flex-wrap: wrap; gap: 0 4rem; }}
.beside > div {{ min-width: 0; }}
figure {{ margin: 0; }}
.chart {{
  border: 1px solid var(--line); border-radius: 10px; padding: .7rem .8rem .5rem;
  position: relative; break-inside: avoid;
}}
.chart figcaption {{ font-weight: 600; margin-bottom: .3rem; }}
.chart svg {{ display: block; width: 100%; height: auto; touch-action: pan-y; }}
.chart .note {{ margin: .2rem 0; font-size: .8rem; }}
.chart text {{ fill: var(--gray); font-size: 12px; }}
.chart .axis {{ font-size: 11px; }}
.grid {{ stroke: var(--line); stroke-width: .8; }}
.cross {{ stroke: var(--gray); stroke-width: 1; pointer-events: none; }}
.line path {{ fill: none; stroke: currentColor; stroke-width: 1.6; stroke-linejoin: round; }}
.line.bold path {{ stroke-width: 2.8; }}
.line.dashed path {{ stroke-dasharray: 6 4; }}
.line circle {{ fill: currentColor; }}
.mark {{ stroke-width: 1.2; stroke-dasharray: 3 3; }}
.mark, .foot, .key {{ stroke: currentColor; fill: currentColor; }}
.foot {{ stroke: none; }}
.rollback {{ color: var(--c4); }}
.skipped {{ color: var(--c6); }}
.changed {{ color: var(--c3); }}
.mark.skipped {{ stroke: none; }}
.band {{ fill: transparent; }}
.legend {{
  display: flex; flex-wrap: wrap; gap: .1rem .9rem; list-style: none; margin: .3rem 0 0;
  padding: 0; font-size: .8rem;
}}
.legend i, .tip i, .key {{
  background: currentColor; border-radius: 2px; display: inline-block; height: .6em;
  margin-right: .4em; width: .6em;
}}
.legend i.dashed, .tip i.dashed {{ background: none; border: 2px dotted currentColor; }}
.legend b {{ font-weight: 600; font-variant-numeric: tabular-nums; }}
.run {{ white-space: nowrap; }}
.run code {{ color: var(--gray); display: block; margin-left: 1em; }}
.keyed {{ margin-right: 1.2rem; }}
.tip {{
  background: color-mix(in srgb, var(--ground) 88%, transparent); top: 2.6rem;
  border: 1px solid var(--line); border-radius: 6px;
  box-shadow: 0 2px 10px rgb(0 0 0 / 25%); font-size: .8rem; padding: .35rem .6rem;
  pointer-events: none; position: absolute; white-space: pre; z-index: 2;
}}
.wide {{ overflow-x: auto; max-width: 100%; }}
table {{ border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }}
th, td {{
  border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0; text-align: left;
  vertical-align: top;
}}
th {{ color: var(--gray); font-weight: 600; }}
.number {{ text-align: right; white-space: nowrap; padding-left: .6rem; }}
th.number {{ white-space: normal; }}
td code {{ overflow-wrap: anywhere; }}
tr.other td:first-child code {{ font-weight: 700; color: var(--link); }}
details {{
  border: 1px solid var(--line); border-radius: 8px; margin: .8rem 0; padding: .45rem .8rem;
}}
details > .wide {{ max-height: 32rem; overflow-y: auto; }}
summary {{ cursor: pointer; color: var(--gray); }}
input[type=search] {{
  background: var(--ground); border: 1px solid var(--line); border-radius: 6px; color: inherit;
  font: inherit; margin: .6rem 0; max-width: 24rem; padding: .3rem .6rem; width: 100%;
}}
.card {{ border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem; }}
.card {{ break-inside: avoid; margin: 0 0 14px; }}
.card table {{ width: 100%; }}
.card .number {{ white-space: normal; padding-right: 0; }}
.card td:first-child {{ min-width: 11rem; }}
.picture {{ margin-top: .7rem; }}
img {{ background: #fff; border-radius: 6px; display: block; height: auto; max-width: 100%; }}
.frames {{ display: flex; gap: 14px; overflow-x: auto; padding-bottom: .5rem; }}
.frame {{ flex: none; max-width: min(900px, 92%); }}
.frame figcaption {{ color: var(--gray); font-size: .85rem; margin-top: .3rem; }}
.slider.on .frame:not(.shown) {{ display: none; }}
.slider.on .frame {{ max-width: 100%; }}
.control {{
  align-items: center; display: flex; gap: .8rem; margin-bottom: .7rem; max-width: 640px;
}}
.control input {{ accent-color: var(--c0); flex: 1; min-width: 0; }}
.control output {{ font-variant-numeric: tabular-nums; min-width: 6em; }}
.play {{
  background: var(--card); border: 1px solid var(--line); border-radius: 6px; color: inherit;
  cursor: pointer; font: inherit; height: 2.1rem; width: 2.6rem;
}}
footer {{
  border-top: 1px solid var(--line); color: var(--gray); font-size: .85rem; margin-top: 3rem;
  padding-top: .8rem;
}}
@media (max-width: 600px) {{
  body {{ padding: 0 12px 30px; }}
  h1 {{ font-size: 1.45rem; margin-top: 1rem; }}
  .tiles {{ grid-template-columns: repeat(2, 1fr); }}
  .tile.big {{ grid-column: 1 / -1; }}
}}
@media print {{
  body {{ font-size: 11px; max-width: none; padding: 0; }}
  nav, .control, .tip, details:not([open]) {{ display: none !important; }}
  .charts {{ grid-template-columns: 1fr 1fr; }}
  .card, .tile, pre, tr {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  pre {{ white-space: pre-wrap; }}
  .frames {{ display: block; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
