"""Benchmarks: each operation of coi beside the bare operations of Incus that it is made of.

``tests/run --benchmarks [ROW...]`` runs them; docs/benchmarks.md says what is measured.
"""
