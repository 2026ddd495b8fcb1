"""The model that evaluate.py and upscale.py are asked for; both take the same words."""

from ail_ray.learning.models import Network
from ail_ray.learning.named import CHAMPION, find_network


def chosen_model(word: str, scale: int) -> Network:
    """A network by a word for it: those of `find_network`, and `champion`, the best student for a scale so far.

    Raises:
        FileError: there is nothing of that name, or its file cannot be used.
        ConfigError: MLflow knows no champion for this scale, or cannot be asked.
    """
    if word != CHAMPION:
        return find_network(word)
    from ail_ray.orchestration.champion import load_champion  # here: with Ray and MLflow it takes two seconds to load

    return load_champion(scale)
