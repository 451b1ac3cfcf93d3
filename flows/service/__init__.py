"""`thaw serve`: the champion of a workspace over HTTP on loopback, in a process of its
own that is replaced safely.
"""
