"""The stores that come with the package, one module each; see :mod:`perdure.store`."""
