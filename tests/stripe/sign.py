"""Signs what comes on standard input as Stripe's own library for Python does: python sign.py SECRET TIME"""

import sys

import stripe

secret, time = sys.argv[1:]
print(stripe.WebhookSignature.generate_signature_header(sys.stdin.buffer.read().decode(), secret, int(time)))
