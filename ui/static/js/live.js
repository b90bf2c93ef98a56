// Live rows: the server says on a stream that something changed, the page fetches itself and swaps its parts.
import { announce, fetchPage, replacePart } from './page.js'

// A page that nobody looks at must not keep the session alive by fetching: after this time without a sign of a person
// it sleeps, and wakes up with the next one.
const attention = 10 * 60_000

const parts = ['rows', 'request', 'device-status']

export function live (enhance) {
  const main = document.getElementById('main')
  if (!main.dataset.live || !window.EventSource) return
  let running = false
  let again = false

  async function refresh () {
    if (running) { again = true; return }
    running = true
    try {
      const { page, answer } = await fetchPage(location.href)
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) { location.reload(); return }
      let changed = false
      for (const id of parts) {
        const old = document.getElementById(id)
        if (!old || busy(old)) continue
        const before = rowTexts(old)
        const fresh = replacePart(old, page)
        if (!fresh) continue
        enhance(fresh)
        changed = mark(fresh, before) || changed
      }
      if (changed) announce('The list was updated.')
    } catch (error) {
      console.info('live rows:', error.message) // the next event, or a reload, shows the state
    } finally {
      running = false
      if (again) { again = false; refresh() }
    }
  }

  let stream = null
  let lastInput = Date.now()
  const listen = () => {
    stream = new EventSource('/events/rows?topic=' + encodeURIComponent(main.dataset.live))
    stream.addEventListener('changed', refresh)
  }
  const sleep = () => { stream?.close(); stream = null }
  for (const sign of ['pointerdown', 'pointermove', 'keydown', 'scroll', 'focus']) {
    addEventListener(sign, () => {
      lastInput = Date.now()
      if (!stream) { listen(); refresh() }
    }, { passive: true, capture: true })
  }
  listen()
  setInterval(() => { if (Date.now() - lastInput > attention) sleep() }, 30_000)
  addEventListener('pagehide', sleep)
  addEventListener('pageshow', event => { if (event.persisted) location.reload() })
}

/** A part in which somebody is typing is left alone. */
function busy (part) {
  return [...part.querySelectorAll('textarea, input:not([type=checkbox]):not([type=hidden])')].some(field => field.value !== field.defaultValue || field === document.activeElement)
}

function rowTexts (part) {
  return new Map([...part.querySelectorAll('tr[id]')].map(row => [row.id, statusOf(row)]))
}

function mark (part, before) {
  let any = false
  for (const row of part.querySelectorAll('tr[id]')) {
    if (before.get(row.id) === statusOf(row)) continue
    row.classList.add('changed')
    any = true
  }
  return any
}

function statusOf (row) {
  return [...row.querySelectorAll('.badge')].map(badge => badge.textContent.trim()).join('|')
}
