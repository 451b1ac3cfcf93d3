"""What a network is trained to do, for each kind of target: losses and metrics shared
by the tasks that have such targets.
"""
