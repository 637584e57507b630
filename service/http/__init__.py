"""HTTP: routes, middleware, access, problem documents; the only room that knows FastAPI, Starlette and uvicorn."""
