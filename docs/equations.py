"""The displayed equations of the chapters: as they are written in the script, and in LaTeX for the site.

A chapter is read in an editor as well, where LaTeX is hard to read, so its equations are plain text. An
equation that is changed there is plain text on the site, too, until it is changed here;
`tests/test_docs.py` finds it.
"""

EQUATIONS = {
    # 02
    "(f(x + h) - f(x - h)) / 2h": r"\frac{f(x + h) - f(x - h)}{2h}",
    # 03
    "y[n,i,j,f] = bias[f] + sum over p,q,c of weight[p,q,c,f] x[n,i+p,j+q,c]": (
        r"y_{n,i,j,f} = \mathrm{bias}_f + \sum_{p,q,c} \mathrm{weight}_{p,q,c,f} \; x_{n,i+p,j+q,c}"
    ),
    "grad_x[n,r,s,c] = sum over p,q,f of weight[p,q,c,f] grad_y[n,r-p,s-q,f]": (
        r"\mathrm{grad\_x}_{n,r,s,c} = \sum_{p,q,f} \mathrm{weight}_{p,q,c,f} \;"
        r" \mathrm{grad\_y}_{n,r-p,s-q,f}"
    ),
    # 04
    "y[i,j,f] = sum over p,q,c of weight[p,q,c,f] x[i+p,j+q,c]": (
        r"y_{i,j,f} = \sum_{p,q,c} \mathrm{weight}_{p,q,c,f} \; x_{i+p,j+q,c}"
    ),
    "grad_weight[p,q,c,f] = sum over i,j of x[i+p,j+q,c] grad_y[i,j,f]": (
        r"\mathrm{grad\_weight}_{p,q,c,f} = \sum_{i,j} x_{i+p,j+q,c} \; \mathrm{grad\_y}_{i,j,f}"
    ),
    # 05
    "y0 = d0 g0 + d1 g1 + d2 g2\ny1 = d1 g0 + d2 g1 + d3 g2": (
        r"\begin{aligned} y_0 &= d_0 g_0 + d_1 g_1 + d_2 g_2 \\"
        r" y_1 &= d_1 g_0 + d_2 g_1 + d_3 g_2 \end{aligned}"
    ),
    "y0 - m1 = d2 s + d1 g1\ny1 + m4 = d1 s + d2 g1": (
        r"\begin{aligned} y_0 - m_1 &= d_2 s + d_1 g_1 \\ y_1 + m_4 &= d_1 s + d_2 g_1 \end{aligned}"
    ),
    # 08
    "y[n,i,j,c] = max over p,q in {0,1} of x[n,2i+p,2j+q,c]": (
        r"y_{n,i,j,c} = \max_{p,q \in \{0,1\}} \; x_{n,2i+p,2j+q,c}"
    ),
    "y[n,2i+p,2j+q,f] = bias[f] + sum over c of weight[p,q,c,f] x[n,i,j,c]": (
        r"y_{n,2i+p,2j+q,f} = \mathrm{bias}_f + \sum_c \mathrm{weight}_{p,q,c,f} \; x_{n,i,j,c}"
    ),
    "<up(x), y> = <x, down(y)>      for all x and y": (
        r"\langle \mathrm{up}(x), y \rangle = \langle x, \mathrm{down}(y) \rangle"
        r" \quad \text{for all } x \text{ and } y"
    ),
    # 10
    "p[k] = exp(logits[k]) / sum over k' of exp(logits[k'])": (
        r"p_k = \frac{\exp(\mathrm{logits}_k)}{\sum_{k'} \exp(\mathrm{logits}_{k'})}"
    ),
    "E = sum over n, i, j of  w[n,i,j] · -log p[n,i,j,target[n,i,j]]": (
        r"E = \sum_{n,i,j} w_{n,i,j} \cdot \left( -\log p_{n,i,j,\mathrm{target}_{n,i,j}} \right)"
    ),
    "-(1 - share) w_background log(1 - q) - share w_cell log q": (
        r"-(1 - \mathrm{share}) \; w_\mathrm{background} \log(1 - q)"
        r" - \mathrm{share} \; w_\mathrm{cell} \log q"
    ),
    "w(x) = w_c(x) + w0 · exp(-(d1(x) + d2(x))² / (2 sigma²))": (
        r"w(x) = w_c(x) + w_0 \cdot \exp \left( -\frac{(d_1(x) + d_2(x))^2}{2 \sigma^2} \right)"
    ),
    # 11
    "output[i, j] = input[i + u[0, i, j], j + u[1, i, j]]": (
        r"\mathrm{output}(i, j) = \mathrm{input}(i + u_{0,i,j}, \; j + u_{1,i,j})"
    ),
    "(1 + du_y/di) (1 + du_x/dj) - (du_y/dj) (du_x/di)": (
        r"\left( 1 + \frac{\partial u_y}{\partial i} \right)"
        r" \left( 1 + \frac{\partial u_x}{\partial j} \right)"
        r" - \frac{\partial u_y}{\partial j} \; \frac{\partial u_x}{\partial i}"
    ),
    # 12
    "v = momentum · v + grad\nw = w - lr · v": (
        r"\begin{aligned} v &= \mathrm{momentum} \cdot v + \mathrm{grad} \\"
        r" w &= w - \mathrm{lr} \cdot v \end{aligned}"
    ),
    "mean   = beta1 · mean   + (1 - beta1) · grad           beta1 = 0.9\n"
    "square = beta2 · square + (1 - beta2) · grad²          beta2 = 0.999\n"
    "w = w - lr · (mean / c1) / (sqrt(square / c2) + 1e-8)": (
        r"\begin{aligned}"
        r" \mathrm{mean} &= \beta_1 \cdot \mathrm{mean} + (1 - \beta_1) \cdot \mathrm{grad}"
        r" & \quad \beta_1 &= 0.9 \\"
        r" \mathrm{square} &= \beta_2 \cdot \mathrm{square} + (1 - \beta_2) \cdot \mathrm{grad}^2"
        r" & \quad \beta_2 &= 0.999 \\"
        r" w &= w - \mathrm{lr} \cdot \frac{\mathrm{mean} / c_1}{\sqrt{\mathrm{square} / c_2} + 10^{-8}}"
        r" \end{aligned}"
    ),
    # 14
    "score = (sum of n²) / (½ sum of s² + ½ sum of t²)": (
        r"\mathrm{score} = \frac{\sum n^2}{\frac{1}{2} \sum s^2 + \frac{1}{2} \sum t^2}"
    ),
    # 16
    "mean[c]     = 1/M · sum over n,i,j of x[n,i,j,c]\n"
    "variance[c] = 1/M · sum over n,i,j of (x[n,i,j,c] - mean[c])²\n"
    "normal      = (x - mean) / sqrt(variance + 1e-5)\n"
    "y           = scale · normal + shift": (
        r"\begin{aligned}"
        r" \mathrm{mean}_c &= \frac{1}{M} \sum_{n,i,j} x_{n,i,j,c} \\"
        r" \mathrm{variance}_c &= \frac{1}{M} \sum_{n,i,j} \left( x_{n,i,j,c} - \mathrm{mean}_c \right)^2 \\"
        r" \mathrm{normal} &= \frac{x - \mathrm{mean}}{\sqrt{\mathrm{variance} + 10^{-5}}} \\"
        r" y &= \mathrm{scale} \cdot \mathrm{normal} + \mathrm{shift}"
        r" \end{aligned}"
    ),
    "grad_x = (h - mean(h) - normal · mean(h · normal)) / s": (
        r"\mathrm{grad\_x} = \frac{h - \mathrm{mean}(h)"
        r" - \mathrm{normal} \cdot \mathrm{mean}(h \cdot \mathrm{normal})}{s}"
    ),
}
