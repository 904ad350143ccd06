"""Ask a server that was just built for completions:   smoke.py REPORT SECONDS COMMAND…

The server is started as COMMAND --host 127.0.0.1 --port PORT. What is looked for is what has gone wrong with
Cosmopolitan: a server that starts and then answers every question with HTTP 400 (versions of November 2025), or that
ends on the first one. The report has the answers' status codes; nothing in it depends on the machine.
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

QUESTIONS = (
    ("/tokenize", {"content": "Once upon a time"}, "tokens"),
    ("/completion", {"prompt": "Once upon a time", "n_predict": 4, "ignore_eos": True}, "content"),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 4}, "choices"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 4}, "choices"),
)


def main() -> int:
    """Zero if every answer was as expected; says what was not."""
    report, seconds, *command = sys.argv[1:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(f"{report}.log", "wb") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    wrong = await_start(server, address, time.monotonic() + float(seconds))
    lines = []
    if not wrong:
        for path, question, wanted in QUESTIONS:
            status, answer = ask(address + path, question)
            lines.append(f"{path}: {status}")
            if status != 200 or wanted not in answer:
                wrong.append(f"{path} was answered with {status}: {str(answer)[:200]}")
        if wrong and all(line.endswith(": 400") for line in lines):
            wrong.append("every question got HTTP 400: the fault of Cosmopolitan's versions of November 2025")
    if not wrong and server.poll() is not None:
        wrong.append(f"the server ended with exit code {server.returncode} after it had answered")
    stop(server)
    with open(f"{report}.log", "rb") as log:
        said = log.read().decode("utf-8", "replace")
    if wrong:
        print(said[-4000:], file=sys.stderr)
        for line in wrong:
            print(f"smoke: not as expected: {line}", file=sys.stderr)
        return 1
    with open(report, "w") as out:
        out.write("\n".join(lines) + "\n")
    return 0


def await_start(server, address, deadline):
    """What is wrong with how it starts: nothing, once it says that it is well."""
    while time.monotonic() < deadline:
        if server.poll() is not None:
            return [f"the server ended with exit code {server.returncode} before it answered"]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                if answer.status == 200:
                    return []
        except OSError:
            pass
        time.sleep(0.2)
    return ["the server does not say that it is well"]


def ask(url, question):
    """The status and the answer, as JSON if it is that."""
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            status, text = answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def stop(server):
    """End it, whatever state it is in."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
