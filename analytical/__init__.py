"""The closed-form detector: statistics in one pass over a feature cache, solves with scikit-learn, no gradient descent."""
