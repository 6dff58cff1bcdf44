"""What a build would do, and why: dvc.yaml, dvc.lock, the files and the row store, read without starting DVC."""
