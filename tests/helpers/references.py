"""Slow, plain references that the tests compare with."""

import math


def kernel(name, a, b, rows):
    """K(a, b) for two vectors of a batch ``rows``, with Python floats."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    norm_a, norm_b = math.sqrt(sum(x * x for x in a)), math.sqrt(sum(x * x for x in b))
    distance = math.dist(a, b)
    squares = [sum(x * x for x in row) for row in rows]
    if name == "cosine":
        return 0.5 * (dot / (norm_a * norm_b) + 1)
    if name == "linear":
        return 0.5 * (dot / max(squares) + 1)
    if name == "polynomial":
        g = len(rows) / sum(squares)
        return (g * dot + 1) ** 2 / math.sqrt((g * norm_a**2 + 1) ** 2 * (g * norm_b**2 + 1) ** 2)
    pairs = sorted(math.dist(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j)
    s = pairs[(len(pairs) - 1) // 2]
    if name == "rbf":
        return math.exp(-(distance**2) / (2 * s**2))
    if name == "laplacian":
        return math.exp(-distance / s)
    if name == "inverse_multiquadric":
        return 1 / math.sqrt(1 + distance**2 / s**2)
    raise KeyError(name)


def conditional(similarity, diagonal):
    """p[i][j] = K[i][j] / sum over m != j of K[m][j]."""
    n = len(similarity)
    p = [[0.0] * n for _ in range(n)]
    for j in range(n):
        total = sum(similarity[m][j] for m in range(n) if diagonal or m != j)
        for i in range(n):
            if diagonal or i != j:
                p[i][j] = similarity[i][j] / total
    return p


def divergence(p, q):
    """sum over i and j of p log(p/q), zeros left out."""
    n = len(p)
    return sum(p[i][j] * math.log(p[i][j] / q[i][j]) for i in range(n) for j in range(n) if p[i][j] > 0)
