"""A web service in front of impasto: photos are posted, painted in a named style, and fetched.

pip install fastapi uvicorn standardwebhooks; STYLES=FOLDER uvicorn web_service:app

curl --data-binary @photo.jpg 'localhost:8000/pictures?style=mosaic'    # {"id": "..."}
curl localhost:8000/pictures/ID                                         # {"state": "running", "step": 12, ...}
curl -O localhost:8000/pictures/ID/file
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

import impasto

MOST_BYTES = 20 << 20
STATUS = {
    impasto.InvalidRequest: 422,
    impasto.NotFound: 404,
    impasto.NotReady: 409,
    impasto.Overloaded: 429,
    impasto.Unavailable: 503,
}
STYLES = {path.stem: path for path in sorted(Path(os.environ.get("STYLES", "styles")).iterdir())}


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """Hold one connection for all requests."""
    app.state.ended = {}
    async with impasto.AsyncClient() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=connected)


@app.exception_handler(impasto.ImpastoError)
async def refused(request: Request, error: impasto.ImpastoError) -> Response:
    """Answer impasto's errors with their reason."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 502)
    headers = {} if error.retry_after_s is None else {"retry-after": str(round(error.retry_after_s))}
    return Response(f"{error.reason}: {error}", status, headers)


@app.post("/pictures", status_code=202)
async def submit(request: Request, style: str, size_px: int = 512) -> dict[str, str]:
    """Accept a photo; it is painted whether or not the caller stays."""
    if style not in STYLES:
        raise HTTPException(404, f"there is no style {style}; the styles are {', '.join(STYLES)}")
    photo = b""
    async for chunk in request.stream():
        photo += chunk
        if len(photo) > MOST_BYTES:
            raise HTTPException(413, f"at most {MOST_BYTES} bytes")
    options: dict[str, Any] = {"size_px": size_px, "steps": 50, "format": "jpeg"}
    if "WEBHOOK" in os.environ:  # https://THIS_SERVICE/ended, on the list of the server's operator
        options["webhook"] = os.environ["WEBHOOK"]
    job = await app.state.client.submit(photo, STYLES[style], **options)
    return {"id": job.job_id}


@app.get("/pictures/{job_id}")
async def state(job_id: str) -> dict[str, Any]:
    """Tell how far a picture is."""
    job = await app.state.client.job(job_id).info()
    return {"state": job.state, "step": job.step, "steps": job.steps, "loss": job.losses and job.losses.total}


@app.get("/pictures/{job_id}/file")
async def picture(job_id: str) -> Response:
    """Return a finished picture."""
    result = await app.state.client.job(job_id).fetch()
    return Response(result.data, media_type="image/jpeg")


@app.post("/ended", status_code=204)
async def ended(request: Request) -> None:
    """Take impasto's message about a job's end, if its signature is right."""
    try:
        message = Webhook(os.environ["WEBHOOK_SECRET"]).verify(await request.body(), dict(request.headers))
    except WebhookVerificationError as error:
        raise HTTPException(400, str(error)) from None
    app.state.ended[message["data"]["job_id"]] = message["type"]  # the same message may come twice
