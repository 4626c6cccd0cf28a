"""A small web of captioned shapes on this machine, and an oracle that reads shapes back.

In reading order: ``config`` (how large, how faulty), ``shapes`` (scenes, what is held out, how a
scene is drawn), ``captions`` (their English), ``plan`` (every picture and pair of the web, with
its truth), ``pages`` (HTML and WARC), ``web`` (what each address answers), ``server`` (the web on
a loopback port), ``oracle`` (colour, shape and background of a picture, blind to its prompt).
"""
