"""Prefect and the command line: the only package that imports Prefect, prints or exits."""
