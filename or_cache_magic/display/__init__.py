"""Show answers, receipts, listings and sums; make untrusted text safe to show."""
