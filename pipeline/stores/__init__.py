"""Buckets: everything reaches ``s3://`` and ``gs://`` through here.

In reading order: how an object comes to be (`uploads`), buckets as a file system of fsspec
(`files`), how S3 is asked (`s3_requests`), and the two kinds of buckets (`s3`, `gcs`).
"""
