// Fetches pages of this site and takes parts out of them. The one Trusted Types policy of the console lives here: it
// only ever parses pages that our own server rendered, into a document in which no script runs.
const policy = window.trustedTypes
  ? window.trustedTypes.createPolicy('ui', { createHTML: text => text })
  : { createHTML: text => text }

/** Fetches a page and parses it; throws when the answer is no page of ours. */
export async function fetchPage (url, options = {}) {
  const answer = await fetch(url, { credentials: 'same-origin', ...options })
  const type = answer.headers.get('content-type') ?? ''
  if (!type.startsWith('text/html')) throw new Error(`unexpected answer ${answer.status} ${type}`)
  const page = new DOMParser().parseFromString(policy.createHTML(await answer.text()), 'text/html')
  return { page, answer }
}

/** Replaces the element by the one with its id in another page; keeps focus and ticked boxes. Returns the new one. */
export function replacePart (old, page) {
  const fresh = page.getElementById(old.id)
  if (!fresh) return null
  const focused = old.contains(document.activeElement) ? keyOf(document.activeElement) : null
  const ticked = [...old.querySelectorAll('input[type=checkbox][id]')].map(box => [box.id, box.checked])
  const adopted = document.adoptNode(fresh)
  old.replaceWith(adopted)
  for (const [id, checked] of ticked) {
    const box = document.getElementById(id)
    if (box && adopted.contains(box)) box.checked = checked
  }
  if (focused) find(adopted, focused)?.focus({ preventScroll: true })
  return adopted
}

/** Says something to people who cannot see the change. */
export function announce (text) {
  document.getElementById('announce').textContent = text
}

function keyOf (element) {
  return { id: element.id, name: element.name, value: element.value, href: element.getAttribute('href') }
}

function find (root, key) {
  if (key.id) return root.querySelector('#' + CSS.escape(key.id))
  if (key.href) return root.querySelector(`a[href="${CSS.escape(key.href)}"]`)
  if (key.name) return root.querySelector(`[name="${CSS.escape(key.name)}"][value="${CSS.escape(key.value)}"]`)
  return null
}
