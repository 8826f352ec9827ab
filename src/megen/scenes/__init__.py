"""The embedded world: what its pictures show, how captions name it, how it is drawn and judged."""
