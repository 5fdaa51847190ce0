//! Floor reserved by docs/concepts.md; its code comes with the issue that needs it.
