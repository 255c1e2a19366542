# ruff: noqa: E501  (markup as pages have it)
"""Formulas and program text in every form in which pages are known to hold them, each once: forms of one formula and
of one program.
"""

TEX = r"\frac{a}{b}"
MML = "<mfrac><mi>a</mi><mi>b</mi></mfrac>"
FORMULAS = {
    "annotation": f'<p>See <math><semantics><mrow>{MML}</mrow><annotation encoding="application/x-tex">{TEX}</annotation></semantics></math> here.</p>',
    "alttext": f'<p>See <math alttext="{TEX}">{MML}</math> here.</p>',
    "mj2": f'<p>See <script type="math/tex">{TEX}</script> here.</p>',
    "mj2display": f'<p>See</p><script type="math/tex; mode=display">{TEX}</script><p> here.</p>',
    "mj2rendered": f'<p>See <span class="MathJax_Preview" style="color: inherit;"></span><span class="MathJax" id="MathJax-Element-1-Frame" tabindex="0" style="position: relative;" data-mathml="<math xmlns=&quot;http://www.w3.org/1998/Math/MathML&quot;>{MML.replace("<", "&lt;")}</math>" role="presentation"><nobr aria-hidden="true"><span class="math">a b</span></nobr><span class="MJX_Assistive_MathML" role="presentation"><math xmlns="http://www.w3.org/1998/Math/MathML">{MML}</math></span></span><script type="math/tex" id="MathJax-Element-1">{TEX}</script> here.</p>',
    "mj3": f'<p>See <mjx-container class="MathJax" jax="CHTML" tabindex="0"><mjx-math class="MJX-TEX" aria-hidden="true"><mjx-mfrac><mjx-frac><mjx-num><mjx-mi class="mjx-i"><mjx-c class="mjx-c1D44E TEX-I"></mjx-c></mjx-mi></mjx-num></mjx-frac></mjx-mfrac></mjx-math><mjx-assistive-mml unselectable="on" display="inline"><math xmlns="http://www.w3.org/1998/Math/MathML">{MML}</math></mjx-assistive-mml></mjx-container> here.</p>',
    "katex": f'<p>See <span class="katex"><span class="katex-mathml"><math xmlns="http://www.w3.org/1998/Math/MathML"><semantics><mrow>{MML}</mrow><annotation encoding="application/x-tex">{TEX}</annotation></semantics></math></span><span class="katex-html" aria-hidden="true"><span class="base"><span class="mord">a</span><span class="mord">b</span></span></span></span> here.</p>',
    "wikipedia": f'<p>See <span class="mwe-math-element"><span class="mwe-math-mathml-inline mwe-math-mathml-a11y" style="display: none;"><math xmlns="http://www.w3.org/1998/Math/MathML" alttext="{{\\displaystyle {TEX}}}"><semantics><mrow>{MML}</mrow><annotation encoding="application/x-tex">{{\\displaystyle {TEX}}}</annotation></semantics></math></span><img src="https://wikimedia.org/api/rest_v1/media/math/render/svg/abc" class="mwe-math-fallback-image-inline" aria-hidden="true" style="vertical-align: -0.338ex;" alt="{{\\displaystyle {TEX}}}"></span> here.</p>',
    "wikiimgonly": f'<p>See <img src="https://wikimedia.org/api/rest_v1/media/math/render/svg/abc" class="mwe-math-fallback-image-inline" aria-hidden="true" alt="{{\\displaystyle {TEX}}}"> here.</p>',
    "imgalt": f'<p>See <img class="latex" src="/img/1.png" alt="{TEX}"> here.</p>',
    "imgalt2": f'<p>See <img src="/img/1.png" alt="${TEX}$"> here.</p>',
    "imgalt3": f'<p>See <img src="/img/eq1.png" alt="{TEX}"> here.</p>',
    "wordpress": f'<p>See <img src="https://s0.wp.com/latex.php?latex=%5Cfrac%7Ba%7D%7Bb%7D&amp;bg=ffffff&amp;fg=000&amp;s=0" alt="{TEX}" class="latex" /> here.</p>',
    "wpnoalt": '<p>See <img src="https://s0.wp.com/latex.php?latex=%5Cfrac%7Ba%7D%7Bb%7D&amp;bg=ffffff&amp;fg=000&amp;s=0"/> here.</p>',
    "codecogs": r'<p>See <img src="https://latex.codecogs.com/gif.latex?%5Cfrac%7Ba%7D%7Bb%7D" title="eq"> here.</p>',
    "codecogs2": r'<p>See <img src="https://latex.codecogs.com/svg.image?\inline&space;\frac{a}{b}" /> here.</p>',
    "github": r'<p>See <img src="https://render.githubusercontent.com/render/math?math=%5Cfrac%7Ba%7D%7Bb%7D"> here.</p>',
    "datatex": f'<p>See <span class="ztext-math" data-eeimg="1" data-tex="{TEX}">a/b</span> here.</p>',
    "datalatex": f'<p>See <span data-latex="{TEX}">a/b</span> here.</p>',
    "mathml": f'<p>See <math xmlns="http://www.w3.org/1998/Math/MathML">{MML}</math> here.</p>',
    "dmath": f"<p>See <d-math>{TEX}</d-math> here.</p>",
    "latexml": f'<p>See <math id="p1.m1" class="ltx_Math" alttext="{TEX}" display="inline"><semantics id="s"><mfrac><mi>a</mi><mi>b</mi></mfrac><annotation encoding="application/x-llamapun">a/b</annotation></semantics></math> here.</p>',
    "rawdollar": f"<p>See ${TEX}$ here.</p>",
    "rawparen": rf"<p>See \({TEX}\) here.</p>",
    "prefixed": '<p>See <mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML"><mml:mfrac><mml:mi>a</mml:mi><mml:mi>b</mml:mi></mml:mfrac></mml:math> here.</p>',
    "tagged svg": f'<p>See <svg role="img" aria-label="{TEX}"><title>{TEX}</title><path d="M0"></path></svg> here.</p>',
    "role math": f'<p>See <span role="math" aria-label="{TEX}"><span>a</span></span> here.</p>',
    "mj2 svg": f'<p>See <span class="MathJax_SVG" id="MathJax-Element-1-Frame" data-mathml="<math>{MML.replace("<", "&lt;")}</math>"><svg><g><use></use></g></svg></span> here.</p>',
    "mjx4": f'<p>See <mjx-container class="MathJax" jax="SVG"><svg data-latex="{TEX}"><g data-mml-node="math"></g></svg></mjx-container> here.</p>',
    "asciimath script": f'<p>See <script type="math/tex">% <![CDATA[\n{TEX} %]]></script> here.</p>',
    "mml script": f'<p>See <script type="math/mml"><math>{MML}</math></script> here.</p>',
    "tex in title": f'<p>See <img src="/x.png" title="{TEX}" alt=""> here.</p>',
}

PROGRAM = 'def f(x):\n    if x < 2:\n        return "a"\n\n    return x'
_ESCAPED = PROGRAM.replace("<", "&lt;").replace('"', "&quot;")
_LINES = _ESCAPED.split("\n")
PROGRAMS = {
    "pre": f"<pre>{_ESCAPED}</pre>",
    "precode": f'<pre><code class="language-python">{_ESCAPED}</code></pre>',
    "spans": '<div class="highlight"><pre><span></span><code>'
    + _ESCAPED.replace("def", '<span class="k">def</span>')
    + "</code></pre></div>",
    "br": "<pre>" + "<br>".join(_LINES) + "</pre>",
    "br2": "<pre>" + "<br/>\n".join(_LINES) + "</pre>",
    "code br": "<p><code>" + "<br>".join(l.replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;") for l in _LINES) + "</code></p>",
    "div per line": "<pre><code>" + "".join(f'<div class="line">{l}</div>' for l in _LINES) + "</code></pre>",
    "div per line nl": "<pre><code>"
    + "\n".join(f'<div class="line">{l or "<br>"}</div>' for l in _LINES)
    + "</code></pre>",
    "span line": '<pre class="shiki"><code>'
    + "\n".join(f'<span class="line"><span style="color:#fff">{l}</span></span>' for l in _LINES)
    + "</code></pre>",
    "span line nonl": '<pre class="shiki"><code>'
    + "".join(f'<span class="line"><span style="color:#fff">{l}</span></span>' for l in _LINES)
    + "</code></pre>",
    "docusaurus": '<div class="theme-code-block"><pre tabindex="0" class="prism-code"><code class="codeBlockLines">'
    + "".join(
        f'<span class="token-line" style="color:#393A34"><span class="token plain">{l}</span><br></span>'
        for l in _LINES
    )
    + '</code></pre><div class="buttonGroup"><button type="button" aria-label="Copy code"><svg></svg>Copy</button></div></div>',
    "github blob": '<table class="highlight tab-size js-file-line-container" data-tab-size="8"><tbody>'
    + "".join(
        f'<tr><td id="L{i}" class="blob-num js-line-number" data-line-number="{i}"></td>\n<td id="LC{i}" class="blob-code blob-code-inner js-file-line">{l}</td>\n</tr>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</tbody></table>",
    "github old": '<table class="highlight"><tr>\n<td class="blob-num">1</td><td class="blob-code"><pre>'
    + _ESCAPED
    + "</pre></td></tr></table>",
    "github react": '<div class="react-code-lines">'
    + "".join(
        f'<div class="react-code-text react-code-line-contents"><div><div id="LC{i}" class="react-file-line html-div" data-testid="code-cell">{l}</div></div></div>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</div>",
    "github textarea": '<textarea id="read-only-cursor-text-area" aria-label="file content" readonly>'
    + _ESCAPED
    + "</textarea>",
    "lineno pygments table": '<div class="highlight"><table class="highlighttable"><tr><td class="linenos"><div class="linenodiv"><pre>1\n2\n3\n4\n5</pre></div></td><td class="code"><div><pre><span></span>'
    + _ESCAPED
    + "</pre></div></td></tr></table></div>",
    "lineno pygments spans": '<div class="highlight"><table class="highlighttable"><tr><td class="linenos"><div class="linenodiv"><pre><span class="normal">1</span>\n<span class="normal">2</span></pre></div></td><td class="code"><div><pre><span></span>'
    + _ESCAPED
    + "</pre></div></td></tr></table></div>",
    "inline linenos": "<pre>"
    + "\n".join(f'<span class="linenos">{i}</span>{l}' for i, l in enumerate(_LINES, 1))
    + "</pre>",
    "hugo": '<div class="highlight"><div class="chroma"><table class="lntable"><tr><td class="lntd"><pre tabindex="0" class="chroma"><code><span class="lnt">1\n</span><span class="lnt">2\n</span></code></pre></td><td class="lntd"><pre class="chroma"><code class="language-python" data-lang="python">'
    + "".join(f'<span class="line"><span class="cl">{l}\n</span></span>' for l in _LINES)
    + "</code></pre></td></tr></table></div></div>",
    "hugo inline": '<pre class="chroma"><code>'
    + "".join(
        f'<span class="line"><span class="ln">{i}</span><span class="cl">{l}\n</span></span>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</code></pre>",
    "rouge": '<div class="highlight"><pre class="highlight"><code><table class="rouge-table"><tbody><tr><td class="rouge-gutter gl"><pre class="lineno">1\n2\n3\n</pre></td><td class="rouge-code"><pre>'
    + _ESCAPED
    + "\n</pre></td></tr></tbody></table></code></pre></div>",
    "gitlab": '<pre class="code highlight"><code>'
    + "\n".join(f'<span id="LC{i}" class="line" lang="python">{l}</span>' for i, l in enumerate(_LINES, 1))
    + "</code></pre>",
    "gitlab lines": '<div class="blob-content"><div class="line-numbers"><a class="diff-line-num" href="#L1">1</a><a class="diff-line-num" href="#L2">2</a></div><pre class="code highlight"><code>'
    + "\n".join(f'<span id="LC{i}" class="line" lang="python">{l}</span>' for i, l in enumerate(_LINES, 1))
    + "</code></pre></div>",
    "gitea": '<div class="file-view code-view"><table><tbody>'
    + "".join(
        f'<tr><td id="L{i}" class="lines-num"><span id="L{i}" data-line-number="{i}"></span></td><td rel="L{i}" class="lines-code chroma"><code class="code-inner">{l}\n</code></td></tr>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</tbody></table></div>",
    "cgit": '<table summary="blob content" class="blob"><tr><td class="linenumbers"><pre><a id="n1" href="#n1">1</a>\n<a id="n2" href="#n2">2</a>\n</pre></td><td class="lines"><pre><code>'
    + _ESCAPED
    + "\n</code></pre></td></tr></table>",
    "syntaxhighlighter": '<div id="highlighter_1" class="syntaxhighlighter python"><div class="toolbar"><span><a href="#">?</a></span></div><table border="0"><tbody><tr><td class="gutter">'
    + "".join(f'<div class="line number{i} index{i - 1} alt2">{i}</div>' for i in range(1, 6))
    + '</td><td class="code"><div class="container">'
    + "".join(
        f'<div class="line number{i} index{i - 1} alt2">'
        + (f'<code class="python plain">{l.replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;")}</code>' if l else "&nbsp;")
        + "</div>"
        for i, l in enumerate(_LINES, 1)
    )
    + "</div></td></tr></tbody></table></div>",
    "crayon": '<div class="crayon-syntax"><div class="crayon-toolbar"><span class="crayon-title"></span></div><div class="crayon-main"><table class="crayon-table"><tr class="crayon-row"><td class="crayon-nums"><div class="crayon-nums-content"><div class="crayon-num">1</div><div class="crayon-num">2</div></div></td><td class="crayon-code"><div class="crayon-pre">'
    + "".join(f'<div class="crayon-line">{l or "&nbsp;"}</div>' for l in _LINES)
    + "</div></td></tr></table></div></div>",
    "prettify": '<pre class="prettyprint linenums"><ol class="linenums">'
    + "".join(f'<li class="L{i}"><span class="pln">{l}</span></li>' for i, l in enumerate(_LINES))
    + "</ol></pre>",
    "ol no pre": '<ol class="linenums">'
    + "".join(f'<li class="L{i}"><code>{l}</code></li>' for i, l in enumerate(_LINES))
    + "</ol>",
    "hljs ln": '<pre><code class="hljs"><table class="hljs-ln"><tbody>'
    + "".join(
        f'<tr><td class="hljs-ln-line hljs-ln-numbers" data-line-number="{i}"><div class="hljs-ln-n" data-line-number="{i}"></div></td><td class="hljs-ln-line hljs-ln-code" data-line-number="{i}">{l}</td></tr>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</tbody></table></code></pre>",
    "textarea": f"<textarea rows=10 cols=80 readonly>{_ESCAPED}</textarea>",
    "div pre style": f'<div style="font-family: monospace; white-space: pre;">{_ESCAPED}</div>',
    "blogger": "<div style=\"font-family: 'Courier New', monospace;\">"
    + "<br />".join(l.replace("    ", "&nbsp;&nbsp; &nbsp;") for l in _LINES)
    + "</div>",
    "div.code": '<div class="code">' + "".join(f"<div>{l or '<br>'}</div>" for l in _LINES) + "</div>",
    "div per line generic": '<div class="code-snippet">'
    + "".join(f'<div class="code-line">{l}</div>' for l in _LINES)
    + "</div>",
    "div code table": '<table class="code"><tbody>'
    + "".join(
        f'<tr><td class="ln">{i}</td><td class="code-cell"><pre>{l}</pre></td></tr>' for i, l in enumerate(_LINES, 1)
    )
    + "</tbody></table>",
    "table generic": '<table class="source"><tbody>'
    + "".join(f"<tr><td>{i}</td><td><code>{l}</code></td></tr>" for i, l in enumerate(_LINES, 1))
    + "</tbody></table>",
    "rustdoc src": '<div class="example-wrap"><div data-nosnippet><pre class="src-line-numbers"><a href="#1" id="1">1</a>\n<a href="#2" id="2">2</a>\n</pre></div><pre class="rust"><code>'
    + _ESCAPED
    + "</code></pre></div>",
    "rustdoc new": '<pre class="rust"><code>'
    + "\n".join(f"<a href=#{i} id={i} data-nosnippet>{i}</a>{l}" for i, l in enumerate(_LINES, 1))
    + "</code></pre>",
    "codemirror": '<div class="CodeMirror"><div class="CodeMirror-code">'
    + "".join(
        f'<div style="position: relative;"><div class="CodeMirror-gutter-wrapper"><div class="CodeMirror-linenumber">{i}</div></div><pre class="CodeMirror-line"><span>{l or "&#8203;"}</span></pre></div>'
        for i, l in enumerate(_LINES, 1)
    )
    + "</div></div>",
    "jupyter": '<div class="jp-Cell"><div class="jp-InputPrompt jp-InputArea-prompt">In&nbsp;[1]:</div><div class="jp-CodeMirrorEditor"><div class="CodeMirror cm-s-jupyter"><div class="highlight hl-ipython3"><pre>'
    + _ESCAPED
    + "</pre></div></div></div></div>",
    "samp": "<samp>" + "<br>".join(_LINES).replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;") + "</samp>",
    "tt br": "<tt>" + "<br>".join(_LINES).replace("    ", "&nbsp;&nbsp;&nbsp;&nbsp;") + "</tt>",
    "listing": f"<listing>{_ESCAPED}</listing>",
    "xmp": f"<xmp>{PROGRAM}</xmp>",
    "p per line pre": "<pre>" + "".join(f"<p>{l}</p>" for l in _LINES) + "</pre>",
    "code block": '<code style="display:block;white-space:pre-wrap">' + _ESCAPED + "</code>",
    "copy button": f'<pre><button class="copy">Copy</button><code>{_ESCAPED}</code></pre>',
    "blob table": '<table class="blob-table">'
    + "".join(f'<tr><td class="num">{i}</td><td class="line">{l}</td></tr>' for i, l in enumerate(_LINES, 1))
    + "</table>",
}
