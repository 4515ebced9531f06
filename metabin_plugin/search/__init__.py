"""Search in a gallery of images: features, Faiss indexes, ranked lists."""
