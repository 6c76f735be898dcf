// The server's own interface, as this page uses it.

let token = sessionStorage.getItem("token"); // of this tab, until it is closed

/** The server wants a token, or another one. */
export class NeedsToken extends Error {}

export function useToken(given) {
  token = given;
  sessionStorage.setItem("token", given);
}

/** The bundles: name, about (a line for readers), classes (names), score (where the slider begins). */
export async function bundles() {
  const { models } = await asked("v1/models");
  return models.map(({ name, classes, draw_scores: scores, input, runtime, state }) => ({
    name,
    classes,
    score: Math.floor(100 * Math.min(...scores)) / 100,
    about: `${input.width} × ${input.height} pixels, ${classes.length} ${classes.length === 1 ? "class" : "classes"}, ${state}, ${runtime}`,
  }));
}

/**
 * Everything found in a picture, down to the lowest score.
 *
 * @returns {found, full, size: [width, height] in pixels, milliseconds: in the server}
 */
export async function detect(name, picture) {
  const query = new URLSearchParams({ model: name, score: 0 });
  const reply = await asked(`v1/detect?${query}`, { method: "POST", body: picture });
  return {
    found: reply.detections,
    full: reply.full,
    size: [reply.width, reply.height],
    milliseconds: reply.timing_ms.total,
  };
}

async function asked(address, options = {}, tries = 3) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(address, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Error("The server does not answer.");
  }
  if (response.status === 429 && tries > 1) {
    await new Promise((next) => setTimeout(next, 1000 * Number(response.headers.get("Retry-After") ?? 1)));
    return asked(address, options, tries - 1);
  }
  const reply = await response.json().catch(() => ({ error: `The server answers with status ${response.status}.` }));
  if (response.status === 401) throw new NeedsToken(token ? "The server wants another token." : "The server wants a token.");
  if (!response.ok) throw new Error(reply.error);
  return reply;
}
