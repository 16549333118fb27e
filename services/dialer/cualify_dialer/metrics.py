"""What the dialer measures of itself. The last four are to alert on: none of them must ever count."""

from prometheus_client import Counter

CALLS_ENDED = Counter("cualify_calls_ended_total", "Calls that reached their end.", ["status", "reason"])
PROVIDER_REQUESTS = Counter(
    "cualify_provider_requests_total", "Requests to providers, by how they came out.", ["provider", "outcome"]
)
BREAKERS_OPENED = Counter(
    "cualify_provider_breakers_opened_total", "Times that a provider was left alone for a while.", ["provider"]
)
CALLBACKS = Counter("cualify_provider_callbacks_total", "Callbacks that came, by what they were.", ["provider", "kind"])

OUTCOMES_UNKNOWN = Counter("cualify_outcomes_unknown_total", "Attempts parked, their outcome not known.")
SECOND_EXECUTIONS = Counter("cualify_second_executions_total", "Executions at the provider beyond an attempt's one.")
LATE_NEWS = Counter("cualify_late_news_total", "News of a provider about an attempt that we had closed ourselves.")
OVERRUNS = Counter("cualify_overruns_total", "Calls ended at their limit while the provider still had them live.")
