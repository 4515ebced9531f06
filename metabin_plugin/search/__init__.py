"""Search in a gallery of images: features, Faiss indexes, ranked lists."""

# Here, because a command line reads them before anything else is imported.
KINDS = ("flat", "ivf", "ivf-pq")
METRICS = ("cosine", "euclidean")
