"""The status page: what an engineer on call looks at first, and the JSON behind it.

It reads, and nothing else: no verb changes anything, no secret is shown, and what comes from the table or from AWS
reaches the page as text.
"""
