"""Who may call the gateway: TLS, API keys, client certificates, ServiceAccount tokens.

Layers, lowest first: ``grants`` (pure) → ``callers`` · ``reviews`` → ``access`` → ``interceptor`` · ``allowed_routes``;
``tls`` stands alone.

Every call is authenticated by the interceptor, whatever its kind; only the health service is open. Which tasks the
caller may use is decided where a task's name is looked up: the service sees the route table through `AllowedRoutes`, so
a method that is added later cannot forget it.
"""
