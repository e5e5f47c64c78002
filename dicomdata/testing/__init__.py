"""For tests, this package's and its users': phantoms to read, contracts to subclass.

* `dicomdata.testing.phantoms` writes small series, as odd as a test needs them;
* `dicomdata.testing.enhanced` writes them as one multi-frame file;
* `dicomdata.testing.thorax` writes an archive that looks like one of chest CTs, and clean ones of
  any size to measure with;
* `dicomdata.testing.anatomy` draws those chests, `dicomdata.testing.encoding` encodes pixels;
* `dicomdata.testing.contracts` holds classes of tests to subclass, for pytest;
* `dicomdata.testing.strategies` holds what hypothesis draws from, `dicomdata.testing.messes` series
  with all that archives hold besides, and the volumes that must come out of them;
* `dicomdata.testing.mutations` damages files.

Importing this package imports none of its modules: a phantom needs neither pytest nor hypothesis.
"""
