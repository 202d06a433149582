"""The skeleton by a slow textbook version, to compare with: loops, float64, sorted lists."""

import numpy as np
from scipy.sparse.csgraph import connected_components


def slow_fps(points, n, given=()):
    chosen = list(given)
    order = sorted(range(len(points)), key=lambda i: tuple(points[i]))  # ties go to the smaller x, y, z
    middle = points.mean(0)
    while len(chosen) < n:
        if chosen:
            gap = np.array([((points[order] - points[j]) ** 2).sum(1) for j in chosen]).min(0)
            gap[[i in chosen for i in order]] = -1
        else:
            gap = [((points[i] - middle) ** 2).sum() for i in order]
        chosen.append(order[int(np.argmax(gap))])
    return chosen


def slow_contract(centres, points, neighbours, iterations, eps):
    for _ in range(iterations):
        moved = []
        for c in centres:
            near = points[np.argsort(np.linalg.norm(points - c, axis=1), kind="stable")[:neighbours]]
            nodes = np.vstack([c, near])
            graph = np.linalg.norm(nodes[:, None] - nodes, axis=2) <= eps
            graph[0, 1] = graph[1, 0] = True  # the centre is tied to its nearest neighbour
            label = connected_components(graph, directed=False)[1]
            moved.append(near[label[1:] == label[0]].mean(0))
        centres = np.array(moved)
    return centres


def slow_inscribed(places, normals, points):
    radii = []
    for p, n in zip(places, normals, strict=True):
        gap, depth = np.linalg.norm(p - points, axis=1), (p - points) @ n
        balls = [g**2 / (2 * d) for g, d in zip(gap, depth, strict=True) if g > 0 and d >= 0.5 * g]
        radii.append(min(balls, default=0.0))
    return np.array(radii)


def slow_depth(places, normals, points, o):
    return np.minimum(o.towards_axis * slow_inscribed(places, normals, points), o.deepest or np.inf)[:, None]


def slow_local_sphere(query, points, normals):
    """Weighted least squares for f(x) = c + l.x + q x.x with grad f = n at the points and f = 0 at them (up to the mean)."""
    hit = np.argmin(np.linalg.norm(points - query, axis=1))
    patch = np.argsort(np.linalg.norm(points - points[hit], axis=1))[:12]
    patch = patch[normals[patch] @ normals[hit] >= 0.5]
    p, n = points[patch] - points[hit], normals[patch]
    width = np.sort(((points - points[hit]) ** 2).sum(1))[11] / 4
    w = np.exp(-(p**2).sum(1) / width)
    rows = np.zeros((3 * len(p), 4))  # unknowns q, l: 2 q p + l = n
    rows[:, 0] = 2 * p.ravel()
    rows[:, 1:] = np.tile(np.eye(3), (len(p), 1))
    root = np.repeat(np.sqrt(w), 3)
    q, *linear = np.linalg.lstsq(rows * root[:, None], n.ravel() * root, rcond=None)[0]
    c = -np.average(p @ linear + q * (p**2).sum(1), weights=w)
    middle = -np.array(linear) / (2 * q)
    radius = np.sqrt(middle @ middle - c / q)
    away = query - points[hit] - middle
    sign = np.sign(q)
    return sign * (np.linalg.norm(away) - radius), sign * away / np.linalg.norm(away)


def slow_skeleton(points, normals, o, seeds=None):
    def spacing(x):
        return sorted(sorted(np.linalg.norm(x - p, axis=1))[1] for p in x)[(len(x) - 1) // 2]

    def reach(x):
        return o.eps or (o.eps_spacings * spacing(x) if o.eps_spacings else np.inf)

    if o.iterations == 0:
        places = points[slow_fps(points, o.n_s) if seeds is None else seeds]
        upright = np.array([slow_local_sphere(x, points, normals)[1] for x in places])
        skeleton = places - slow_depth(places, upright, points, o) * upright
    else:
        count = min(4 * o.n_s, len(points))
        candidates = slow_fps(points, count, () if seeds is None else seeds)
        body = points - slow_depth(points, normals, points, o) * normals
        centres = slow_contract(body[candidates], body, o.neighbours, o.iterations, reach(body))
        chosen = slow_fps(centres, o.n_s) if seeds is None else list(range(o.n_s))
        skeleton = slow_contract(centres[chosen], centres, o.neighbours * count // len(points), o.iterations, reach(centres))
    if o.radius == "surface":
        return np.column_stack([skeleton, [abs(slow_local_sphere(x, points, normals)[0]) for x in skeleton]])
    gaps = np.sort(np.linalg.norm(skeleton[:, None] - points, axis=2), axis=1)
    return np.column_stack([skeleton, gaps[:, :4].mean(1)])
