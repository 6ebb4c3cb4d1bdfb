"""The disk: atomic files, locked appends, the raw cache and the guards around them.

Everything that a run leaves behind goes through here. What the files mean is in `contracts`; which files a run
writes is decided in `flows`. Import the module you need, such as
`connectors.store.atomic`: the package itself imports nothing.
"""
