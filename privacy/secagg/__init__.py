"""Secure aggregation: the server learns the sum of the devices' vectors and nothing else.

SecAgg+ (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020,
Algorithm 3; after Bonawitz et al., CCS 2017) for devices that do not trust the server. Pure: no
I/O, no clock, and randomness is an argument. One round, by what the devices send:

1. *Advertisement.* Two fresh X25519 keys, signed by the device's long-term Ed25519 identity.
2. *Shares.* Shown everybody's keys, a device draws its own neighbours by its own randomness, so
   that nobody can place themselves around it. It sends each a Shamir share of the seed of its
   *self mask* and one of the seed of its *masking key*, sealed for that neighbour.
3. *Masked vector.* Its vector plus the self mask, plus or minus a pairwise mask for every device
   that is its neighbour or whose neighbour it is. Pairwise masks cancel in the sum.
4. *Confirmation.* A signature over whose vectors are in the sum, and over all that was said before.
5. *Opening.* Shown signatures of enough devices on the very same set, it opens its shares: of the
   self mask of who is in the sum, of the masking key of who is not. Never both, and only once.

What a server can do is end the round without a sum. What it cannot do is in
``tests/privacy/secagg/test_attacks.py``, one script an attack. It is assumed that of the devices of
a round fewer than ``2 agreement - 1`` collude with the server, and fewer than a threshold of any
device's neighbours.
"""
