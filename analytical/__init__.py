"""The closed-form detector: statistics in one pass over a feature cache, solved by scikit-learn without gradients."""
