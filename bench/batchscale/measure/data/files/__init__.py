"""Fetch the files of datasets from untrusted sources: folders, mirrors and package indexes."""
