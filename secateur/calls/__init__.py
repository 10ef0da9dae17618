"""The API's calls by what they are about, each written once for both clients."""
