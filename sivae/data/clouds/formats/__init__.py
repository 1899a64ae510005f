"""Readers of files with point clouds and surfaces. None of them runs or unpickles anything."""
