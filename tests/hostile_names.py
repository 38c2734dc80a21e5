"""Names that a stranger's file may give to games, actions and options. None of them holds a control character."""

HOSTILE_NAMES = (
    "<img src=http://evil.example/x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "![picture](http://evil.example/x.png)",
    "[link](javascript:alert(1))",
    "[link][reference]",
    "[reference]: http://evil.example",
    "<http://evil.example>",
    "http://evil.example and www.evil.example",
    "a | b | c",
    "`code` ``code`` ```",
    "*emphasis* **strong** _em_ ~~gone~~ $x^2$",
    "\\[link](http://evil.example) \\<b> \\",
    "&lt;b&gt; &amp; &#60;b&#62; AT&T",
    "snake_case ale:space_invaders 24.6 [22.5, 27.5]! left+right",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }} {% for x in y %}",
)
