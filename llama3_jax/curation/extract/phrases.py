"""Short lines that are boilerplate wherever they stand, and headings after which no content comes.

English, German, French, Spanish, Portuguese, Italian. Whole lines only: a sentence that contains such words stays.
"""

import functools
import re

from llama3_jax.curation.extract.config import REMEMBERED

LONGEST_PHRASE = 100  # characters

_ALONE = re.compile(
    r"""(?ix)^[\W_]*(?:
    # Sharing, printing, following
    (?:share|tweet|pinterest|pin|e-?mail|mail|print|teilen|drucken|merken|versenden|partager|imprimer|compartir|
    imprimir|
       compartilhar|condividi|stampa|twittern|whats-?app|facebook|twitter|linked-?in|reddit|telegram|xing|x|
       google\+?|pocket|tumblr|digg|delicious|stumbleupon|flipboard|messenger|threads|bluesky|mastodon|copy\ link|
       link\ kopieren|save|like|gefällt\ mir|follow|feedly|rss(?:[ -]feed)?|more|mehr|instagram|youtube|\||,|·|/|&|
       and|und|
       per|by|via|on|auf|\s|\d)++
    |(?:share|teilen|partager|compartir|compartilhar|condividi|diffuser|tweet|print|send|email|drucken)\s(?:this|on|
      auf|sur|
       en|no|su|via|with|per|by|the|diesen|cet|article|artikel|page|seite|post|beitrag|story|mit|it|to)\b.{0,60}
    |(?:click|klicken?(?:\ sie)?|klick)\s.{0,50}(?:share|teilen|print|ausdrucken|e-?mail|senden).{0,50}
    |(?:like|follow|find|join)\s(?:us|me)\s(?:on|at)\b.{0,40}|folgen?\ (?:sie\ )?(?:uns|mir)\b.{0,40}
    |gefällt\ (?:mir|\d+\ personen).{0,40}|like\ this:?|(?:sei|be)\ (?:der|the)\ (?:erste|first).{0,40}
    |wird\ geladen.{0,5}|loading.{0,12}|lade(?:n|\ \.\.\.).{0,10}|chargement.{0,6}|cargando.{0,6}
    # Reading on
    |(?:read|learn|see|view|show|find\ out|load)\ (?:more|less)\b.{0,40}|(?:see|view|show|
      read)\ all(?:\ \d+)?\ (?:comments|
     posts|articles|stories|results|news|reviews|replies|topics)\b.{0,20}|continue\ reading.{0,60}|
     (?:hier\ )?weiterlesen.{0,50}|
     mehr\ (?:lesen|erfahren|anzeigen|dazu|infos?)\b.{0,40}|lire\ (?:la\ suite|aussi|plus|également).{0,60}|
     leer\ más.{0,40}|
     leia\ (?:mais|também).{0,60}|leggi\ (?:anche|tutto|di\ più).{0,60}|(?:lesen|lies)\ (?:sie\ )?(?:auch|mehr|
     hier)\b.{0,70}|
     (?:read|see)\ also\b.{0,70}|auch\ interessant\b.{0,60}|lea\ también\b.{0,60}|à\ lire\ aussi\b.{0,60}|
     \(?(?:more|mehr|suite|continued)\ ?(?:\.\.\.|…|»|→|>)+\)?
    |(?:zum|zur|go|back|zurück|nach|retour|volver|voltar|torna|skip|jump|springe|direkt|passer|aller|ir)\s
       (?:to|zum?r?|zur|nach|au|à|al?|ao|su|oben|main|the|content)\b.{0,40}
    |(?:previous|next|prev|vorherige[rs]?|nächste[rs]?|older|newer|ältere|neuere|précédent|suivant|anterior|
      siguiente|seguinte|
       próximo|precedente|successivo|zurück|weiter)(?:\ (?:post|article|page|entry|entries|posts|beitrag|beiträge|
       artikel|
       seite|einträge|article|entrada|página|chapter|topic|thread|story|kapitel))?\s?[:»→>›]*.{0,3}
    # Comments and answers
    |(?:\d+|no|keine?|ein|one|aucun|sin|nessun|nenhum|add|write|post|leave|view|show|hide|see|all|kommentar(?:e)?|
      zum|zu\ den|
       laisser|ajouter|deja|deixe|lascia)\s(?:a\ |an?\ |un\ |uma?\ |all\ |den\ |einen\ )?(?:\d+\ )?
       (?:comments?|replies|reply|responses?|kommentare?|antworten?|commentaires?|comentarios?|comentários?|commenti|
       commento|
       kommentieren|schreiben|verfassen|hinterlassen|trackbacks?|reacties|reactions?|shares?|likes?|views?)\b.{0,30}
    |comments?(?:\ \(\d+\)|\ \d+|\ (?:are\ )?(?:off|closed|disabled))?.{0,30}|kommentare?(?:\ ?\(\d+\)|\ \d+|
      \ (?:sind\ )?
       (?:deaktiviert|geschlossen))?.{0,25}|kommentieren|(?:reply|antworten|répondre|responder|rispondi|quote|
       zitieren|zitat|report|
       melden|edit|bearbeiten|permalink|link|flag|share|log\ in\ to\ reply|zum\ antworten\ anmelden|\||·|•|\s)++
    |(?:you\ must\ be|sie\ müssen|du\ musst|please|bitte)\ .{0,12}(?:logged\ in|log\ in|login|eingeloggt|angemeldet|
      anmelden|sign\ in).{0,60}
    # Who, when, where filed
    |(?:posted|filed|published|verfasst|veröffentlicht|eingestellt|geschrieben|publié|publicado|pubblicato|erstellt|
      written)\s
       (?:in|by|on|under|von|am|unter|par|le|el|por|em|da|il|dans|at|:).{0,80}
    |(?:tags?|schlagwort[e]?|schlagwörter|stichwort[e]?|labels?|categor(?:y|ies)|kategorien?|rubrik(?:en)?|topics?|
      themen|
       étiquettes|mots[- ]clés|catégories?|etiquetas|categorías?|categorias?|tagged|getaggt|keywords|filed\ under|
       abgelegt\ unter|
       ressort|genre)\s?(?::|\bwith\b|\bmit\b).{0,90}
    |(?:this\ entry\ was|dieser\ (?:eintrag|beitrag|artikel)\ (?:wurde|ist)|cette\ entrée|esta\ entrada|esta\ entry|
      questa\ voce)\b.{0,120}
    |(?:last\ (?:updated|modified|edited)|zuletzt\ (?:aktualisiert|geändert|bearbeitet)|letzte\ (?:änderung|
      aktualisierung)|
       stand)\s?(?:on|am|by|von|:)?\s.{0,50}
    |(?:by|von|par|por|di|autor|author|auteur|autore)\s?:?\s[^.!?]{2,40}(?:\||,|·|•|-|–)\s?[^.!?]{0,20}\d{4}.{0,20}
    |\d+\ min(?:ute)?s?\.?\ (?:read|lesezeit|de\ lecture|de\ lectura|de\ leitura|di\ lettura).{0,10}|lesezeit.{0,25}
    # Advertisement, law, technique
    |advertisements?|anzeigen?|werbung|publicité|publicidad|publicidade|pubblicità|sponsored(?:\ content)?|
       \(?(?:dieser\ (?:text|link|artikel)|\*).{0,10}affiliate.{0,60}
    |©.{0,90}|\(c\)\s?(?:19|20)\d\d.{0,80}|copyright\b.{0,80}|(?:all\ rights\ reserved|alle\ rechte\ vorbehalten|
      tous\ droits\ réservés|
       todos\ los\ derechos|todos\ os\ direitos|tutti\ i\ diritti).{0,60}
    |(?:proudly\ )?powered\ by\b.{0,60}|stolz\ präsentiert\ von.{0,40}|(?:theme|design|template|layout)\s?(?::|by|
      von|par)\s.{0,60}
    |(?:impressum|imprint|datenschutz(?:erklärung)?|privacy(?:\ policy)?|terms(?:\ of\ (?:use|service))?|agb|kontakt|
      contact(?:\ us)?|
       about(?:\ us)?|über\ uns|mentions\ légales|aviso\ legal|sitemap|disclaimer|faq|home|startseite|accueil|inicio|
       login|logout|
       sign\ (?:in|up)|log\ in|registrieren|register|anmelden|suchen|suche|search|menu|menü\ (?:öffnen|schließen)|
       menü|archive|
       archiv|blogroll|meta|navigation|newsletter|subscribe|abonnieren|cookies?|toggle\ navigation|close|schließen|
       schliessen|
       open|top\ of\ page|top|nach\ oben|advertisement|\||·|•|-|\s)++
    |(?:subscribe|sign\ up|abonnieren|abonniere|newsletter|inscrivez|suscr[ií]b|assine|iscriviti|registrieren)\b.{0,40}
       (?:newsletter|e-?mail|updates|feed|kanal|channel|blog|inbox|postfach|infos).{0,40}
    |(?:diese|this|our|unsere)\ (?:web)?(?:seite|site|website)\ (?:verwendet|benutzt|nutzt|uses)\ cookies.{0,80}
    |(?:jetzt|now)\ (?:kostenlos|bestellen|abonnieren|testen|spenden).{0,40}
    |(?:view|edit|show|improve|suggest)\ (?:this\ (?:page|file)|page\ source|source|edits?)\b.{0,30}|copy(?:\ code|
      \ to\ clipboard|ied!?)?
    |expand\ description|(?:in|out)\s?\[[\d\s*]{0,5}\]\s?:?|(?:\[\s?)?(?:edit|bearbeiten|quelltext\ bearbeiten|
      modifier(?:\ le\ code)?|editar|modifica)(?:\s?[|]\s?.{0,30})?(?:\s?\])?
    )[\W_]*$"""
)
_AFTER = re.compile(
    r"""(?ix)^[\W_]*(?:
    (?:\d+\ |no\ |one\ |keine?\ |ein(?:e)?\ |zwei\ |drei\ )?(?:comments?|responses?|replies|kommentare?|antworten|
    commentaires?|
      comentarios?|comentários?|commenti|thoughts|gedanken|reader\ comments|leserkommentare|lesermeinungen|reacties|
      discussion|
      pingbacks?|trackbacks?)\b(?:\ ?\(\d+\)|\ ?:?\ ?\d+|\ (?:to|on|zu|for|zum|sur|en|über|so\ far)\b.{0,80})?
    |(?:leave|post|write|add|submit)\ (?:a|your)\ (?:comment|reply|response).{0,20}|(?:join\ the|
      start\ the)\ (?:conversation|discussion).{0,10}
    |(?:schreibe?|hinterlass(?:e|en)|verfasse|kommentar|antwort)\s?(?:einen|eine|sie)?\ ?(?:kommentar|antwort|
      schreiben|verfassen|
      hinterlassen|abgeben|senden)?.{0,25}(?:antworten\ abbrechen)?
    |(?:laisse[rz]?|ajouter|écrire)\ un\ commentaire.{0,25}|deja\ (?:un\ comentario|una\ respuesta).{0,25}|
      deixe\ (?:um\ comentário|uma\ resposta).{0,25}|lascia\ un\ commento.{0,25}
    |(?:related|similar|recommended|more|other|popular|latest|recent|trending|further)\s(?:posts?|articles?|stories|
      content|news|
      reading|topics|links|videos?|from\b.{0,40}|on\b.{0,40}|in\b.{0,40}|by\b.{0,40}|like\ this|items|questions|blogs?)
    |you\ (?:may|might)\ (?:also\ )?(?:like|enjoy|be\ interested).{0,30}|(?:recommended|suggested)\ for\ you|
      what\ to\ read\ next|read\ next|
      most\ (?:read|popular|viewed|shared)|don'?t\ miss|trending(?:\ now)?|around\ the\ web|
      from\ (?:around\ )?the\ web|sponsored.{0,20}
    |(?:das\ könnte\ (?:sie|dich)|auch\ interessant|ähnliche|verwandte|weitere|mehr)\s?(?:auch\ interessieren|
      beiträge|artikel|themen|
      nachrichten|meldungen|zum\ thema|zu\b.{0,40}|aus\b.{0,40}|von\b.{0,40}|news|posts)?.{0,12}|meistgelesen.{0,20}|
      lesen\ sie\ auch.{0,20}
    |(?:sur\ le\ même\ (?:sujet|thème)|articles?\ (?:similaires|liés|associés|connexes)|à\ lire\ (?:aussi|également)|
      dans\ la\ même\ rubrique|
      les\ plus\ lus|vous\ (?:aimerez|pourriez).{0,40})
    |(?:artículos?|noticias|entradas|contenidos?)\ relacionad[oa]s|te\ puede\ interesar.{0,20}|más\ (?:noticias|
      leídas?|información).{0,25}|
      (?:artigos|notícias|posts|conteúdos?|matérias)\ relacionad[oa]s|veja\ também|leia\ também|mais\ lidas|
      (?:articoli|post|contenuti)\ correlati|potrebbe(?:ro)?\ (?:anche\ )?interessart[ie].{0,10}|leggi\ anche
    |about\ the\ authors?|über\ den\ autor|über\ die\ autorin|zum\ autor|à\ propos\ de\ l['’]auteur|sobre\ el\ autor|
      sobre\ o\ autor|
      follow\ us.{0,30}|share\ this(?:\ (?:post|article|story|entry))?:?|teilen(?:\ mit)?:?|beitrag\ teilen|
      artikel\ teilen|gefällt\ mir:?|like\ this:?
    |(?:subscribe|newsletter|sign\ up).{0,40}|(?:post|beitrags-?|artikel-?)\ ?navigation|beitrags-?navigation
    |navigationsmenü|navigation\ menu|meine\ werkzeuge|personal\ tools
    )[\W_]*$"""
)


# First words of the phrases above: most lines start with none of them, and are not matched at all.
_FIRST_WORDS = frozenset(
    """
    share tweet pin e email mail print teilen drucken merken versenden partager imprimer compartir imprimir
    compartilhar condividi stampa twittern whats whatsapp facebook twitter linked linkedin pinterest reddit telegram
    x xing google pocket tumblr digg delicious stumbleupon flipboard messenger threads bluesky mastodon copy link
    save like gefällt follow feedly rss more mehr instagram youtube and und per by via on auf diffuser send click
    klick klicke klicken find join folge folgen sei be wird loading lade laden chargement cargando read learn see
    view show load continue hier weiterlesen lire leer leia leggi lesen lies auch lea à suite continued zum zur go
    back zurück nach retour volver voltar torna skip jump springe direkt passer aller ir previous next prev
    vorherige vorheriger vorheriges nächste nächster nächstes older newer ältere neuere précédent suivant anterior
    siguiente seguinte próximo precedente successivo weiter no kein keine ein one aucun sin nessun nenhum add write
    post leave hide all kommentar kommentare laisser ajouter deja deixe lascia comment comments kommentieren reply
    antworten répondre responder rispondi quote zitieren zitat report melden edit permalink flag log you sie du
    please bitte posted filed published verfasst veröffentlicht eingestellt geschrieben publié publicado pubblicato
    erstellt written tag tags schlagwort schlagworte schlagwörter stichwort stichworte label labels category
    categories kategorie kategorien rubrik rubriken topic topics themen étiquettes mots catégorie catégories
    etiquetas categoría categorías categoria categorias tagged getaggt keywords abgelegt ressort genre this dieser
    cette esta questa last zuletzt letzte stand von par por di autor author auteur autore lesezeit advertisement
    advertisements anzeige anzeigen werbung publicité publicidad publicidade pubblicità sponsored copyright c alle
    tous todos tutti proudly powered stolz theme design template layout impressum imprint datenschutz
    datenschutzerklärung privacy terms agb kontakt contact about über mentions aviso sitemap disclaimer faq home
    startseite accueil inicio login logout sign register registrieren anmelden suche suchen search menu menü archiv
    archive blogroll meta navigation newsletter subscribe abonnieren abonniere cookie cookies toggle close schließen
    schliessen open top inscrivez suscrib suscríb assine iscriviti diese our unsere jetzt now improve suggest copied
    expand in out bearbeiten quelltext modifier editar modifica response responses replies commentaire commentaires
    comentario comentarios comentário comentários commenti thoughts gedanken reader leserkommentare lesermeinungen
    reacties discussion pingback pingbacks trackback trackbacks zwei drei submit start schreib schreibe hinterlass
    hinterlasse hinterlassen verfasse antwort laissez laisse écrire related similar recommended other popular latest
    recent trending further suggested what most don around from das ähnliche verwandte weitere meistgelesen sur
    article articles dans les vous artículo artículos noticia noticias entrada entradas contenido contenidos te más
    artigos notícias posts conteúdo conteúdos matérias veja mais articoli contenuti potrebbe potrebbero beitrag
    artikel beitrags navigationsmenü meine personal sobre
    """.split()
)
_PUNCTUATION = "\x01\x02_([{*-–—•·|/:;,.!?\"'«»<>= "
_BEGINNINGS = frozenset(f"{word} "[:4] for word in _FIRST_WORDS) | {word for word in _FIRST_WORDS if len(word) < 4}
_FIRST_WORD = re.compile(r"[\W_]*([^\W_]+)")


def may_be_phrase(line: str) -> bool:
    """Whether a line, with marks of links or without, begins like one of the phrases. Fast, and often wrongly true."""
    start = line.lstrip(_PUNCTUATION)[:4].lower()
    return start in _BEGINNINGS or not start[:4].isalpha()


def _begins_like_one(line: str) -> bool:
    found = _FIRST_WORD.match(line)
    if found is None or len(line) > LONGEST_PHRASE:
        return "©" in line
    word = found.group(1).lower()
    return word in _FIRST_WORDS or word.isdigit() or "©" in line


@functools.lru_cache(REMEMBERED)
def is_boilerplate(line: str) -> bool:
    """Whether a line says nothing but a stock phrase of the web."""
    return _begins_like_one(line) and _ALONE.match(line) is not None


def ends_content(line: str) -> bool:
    """Whether a heading stands over what comes after an article: comments, related articles, the author."""
    return _begins_like_one(line) and _AFTER.match(line) is not None
