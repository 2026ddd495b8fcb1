"""The model that `ail evaluate`, `ail upscale` and `ail export` are asked for; all take the same words."""

from ail_ray.delivery.named import CHAMPION, find_network
from ail_ray.learning.networks import Network


def chosen_model(word: str, scale: int) -> Network:
    """A network by a word for it: those of `find_network`, and `champion`, the best student for a scale so far.

    Raises:
        FileError: there is nothing of that name, or its file cannot be used.
        ConfigError: MLflow knows no champion for this scale, or cannot be asked.
    """
    if word != CHAMPION:
        return find_network(word)
    from ail_ray.tracking.champion import load_champion

    return load_champion(scale)
