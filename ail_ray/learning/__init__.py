"""Algorithm 1 and all it needs: importance, networks, training, inference. Knows neither Ray nor MLflow."""
