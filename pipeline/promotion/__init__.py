"""Whether a challenger becomes the champion: evidence, verdict and the journal of what
was decided.
"""
