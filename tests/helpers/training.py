"""The network in training mode, one call after the other, as the original calls it."""


def moved(stats, moments):
    """Running averages after one call of a module: each by its momentum towards its batch."""
    batch = moments.get("batch")
    if hasattr(batch, "momentum"):
        m = batch.momentum
        return {
            "mean": m * stats["mean"] + (1 - m) * batch.mean[0],
            "var": m * stats["var"] + (1 - m) * batch.variance[0],
        }
    return {k: moved(v, moments[k]) if k in moments else v for k, v in stats.items()}


def train_call(network, params, stats, *args, method, **options):
    """Output of one call, and the running averages after it."""
    output, sown = network.apply(
        {"params": params, "batch_stats": stats},
        *args,
        train=True,
        method=method,
        mutable=["moments"],
        **options,
    )
    return output, moved(stats, sown.get("moments", {}))
