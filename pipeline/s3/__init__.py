"""Buckets that speak S3: everything reaches ``s3://`` through here.

In reading order: how a bucket is asked (`requests`), how an object comes to be (`upload`), and both
as a file system of fsspec (`files`).
"""
